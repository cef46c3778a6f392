"""Batches for one rank: reads, decodes, augments and tokenizes, in worker processes where there are cores for it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from soupkit.errors import DataError, SoupkitError, UsageError
from soupkit.evaluation.adapter import Tokenizer, preprocess_of
from soupkit.evaluation.transform import decode
from soupkit.ranks import Ranks
from soupkit.training.data.class_outputs import outputs_of
from soupkit.training.data.reader_turns import Turns
from soupkit.training.data.sources import Source, open_sources
from soupkit.training.entry import TrainEntry
from soupkit.training.order import Balanced, Mixture, order_of, seed_of, turn
from soupkit.training.randomness import seed_everything, undisturbed
from soupkit.training.signals import held_signals, leave_signals_to_parent

_SUBSTITUTES = 32  # how many samples in a row may be damaged before the data are given up


@dataclass(frozen=True, slots=True)
class Batch:
    """One rank's part of a global batch: images float32 [B, 3, H, W], and what they are trained towards: texts int64
    [B, context], or classes int64 [B]; what was damaged."""

    images: Tensor
    targets: Tensor
    damaged: tuple[str, ...]

    def pin_memory(self) -> "Batch":
        """Return the same in page-locked memory, from where a GPU copies while the CPU goes on."""
        return Batch(self.images.pin_memory(), self.targets.pin_memory(), self.damaged)


class TrainingData(Dataset[tuple[Tensor, Tensor, str]]):
    """Sample number `position` of a run, for any position: everything random about it is drawn from that number.

    An image goes with a caption's tokens, int64 [context], or for the loss cross_entropy with the number of the output
    that stands for its class, an int64 scalar.
    """

    def __init__(
        self,
        entry: TrainEntry,
        config: dict[str, Any],
        tokenizer: Tokenizer | None,
        sources: Sequence[Source] | None = None,
    ) -> None:
        """`sources` are the entry's, opened here unless given; labels need no `tokenizer`. Raises DataError for data
        that cannot be read, UsageError for a transform that open_clip refuses."""
        entries = entry.data
        self.sources = list(sources) if sources is not None else open_sources(entry)
        self._seed = entry.seed
        self._orders = [
            order_of(
                s.sizes, s.labels, seed_of(entry.seed, "order", i), share=e.share, balanced=e.balanced,
                block=e.shuffle_shards,
            )
            for i, (e, s) in enumerate(zip(entries, self.sources, strict=True))
        ]  # fmt: skip
        self._mixture = Mixture(tuple(e.weight or float(len(o)) for e, o in zip(entries, self._orders, strict=True)))
        self._transform = _training_transform(preprocess_of(config), entry.augmentation)
        self._outputs = outputs_of(config, [s.task for s in self.sources]) if entry.classifies else ()
        self._tokens: Callable[[str], Tensor] = lru_cache(maxsize=1 << 14)(partial(_tokens_of, tokenizer))

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor, str]:
        source, k = self._mixture(position)
        order, chosen = self._orders[source], self.sources[source]
        damaged = ""
        for attempt in range(_SUBSTITUTES):
            index = order(k if not attempt else seed_of(self._seed, position, attempt) % len(order))
            try:
                data, told = chosen.read_label(index) if chosen.read_label and self._outputs else chosen.read(index)
                image = decode(data)
            except (OSError, ValueError, DataError) as error:
                damaged = damaged or f"{chosen.place}, sample {index}: {error}"
                continue
            seed = seed_of(self._seed, "sample", position)
            if isinstance(told, int):
                target = self._output(source, index, told)
            elif isinstance(order, Balanced):  # in turn, so that a batch of them holds no caption twice
                target = self._tokens(told[turn(len(told), self._seed, k // len(order.classes))])
            else:
                target = self._tokens(told[seed % len(told)])
            seed_everything(seed)
            return self._transform(image), target, damaged
        what = f"{_SUBSTITUTES} samples in a row are damaged, the first: {damaged}"
        raise DataError(what, self.sources[source].place, "get the data again, or leave this source out")

    def _output(self, source: int, index: int, label: int) -> Tensor:
        """Return the output for a class, int64 scalar. Raises DataError for a label without a name."""
        outputs = self._outputs[source]
        if not 0 <= label < len(outputs):
            what = f"has the label {label}, and {len(outputs)} classes have names"
            where = f"{self.sources[source].place}, sample {index}"
            raise DataError(what, where, "labels count from 0, in the order of classnames.txt")
        return torch.tensor(outputs[label])


def _tokens_of(tokenizer: Tokenizer | None, text: str) -> Tensor:
    assert tokenizer is not None, "captions need one"
    return tokenizer([text])[0]


@dataclass(frozen=True, slots=True)
class _Reader(Dataset[Batch]):
    """Reads batches, each sample in its turn where there are `turns`."""

    data: TrainingData
    turns: Turns | None

    def __getitems__(self, positions: Sequence[int]) -> Batch | SoupkitError:
        """Return the samples of `positions` as a batch, or the error that they end in: raised in a worker process, it
        would reach the run with a traceback for a text."""
        samples = []
        try:
            for position in positions:
                if self.turns is not None:
                    self.turns.wait()
                samples.append(self.data[position])
        except SoupkitError as error:
            return error
        images, targets, damaged = zip(*samples, strict=True)
        return Batch(torch.stack(images), torch.stack(targets), tuple(d for d in damaged if d))


def _training_transform(preprocess: dict[str, Any], augmentation: dict[str, Any]) -> Callable[[Any], Tensor]:
    """Return open_clip's own augmentation for training and, with `auto_augment`, timm's on top of it."""
    from open_clip.transform import AugmentationCfg, PreprocessCfg, image_transform_v2

    own = {k: v for k, v in preprocess.items() if k in PreprocessCfg.__dataclass_fields__ and v is not None}
    policy = augmentation.get("auto_augment")
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in augmentation.items() if k != "auto_augment"}
    try:
        transform = image_transform_v2(PreprocessCfg(**own), is_train=True, aug_cfg=AugmentationCfg(**settings))
        if policy is not None:
            transform.transforms.insert(_before_tensor(transform.transforms), _rand_augment(policy, preprocess))
        return transform
    except (TypeError, ValueError, AssertionError) as error:
        what = f"open_clip refuses the augmentation: {error}"
        raise UsageError(what, "augmentation", "its settings are those of open_clip's AugmentationCfg") from error


def _before_tensor(transforms: Sequence[Any]) -> int:
    from torchvision.transforms import ToTensor

    return next(i for i, t in enumerate(transforms) if isinstance(t, ToTensor))


def _rand_augment(policy: str, preprocess: dict[str, Any]) -> Callable[[Any], Any]:
    """Return RandAugment as the model-soups paper has it, in timm's words: rand-m9-n2."""
    from timm.data.auto_augment import rand_augment_transform

    size = preprocess["size"]
    side = size if isinstance(size, int) else min(size)
    mean = tuple(min(255, round(255 * m)) for m in preprocess.get("mean", (0.5, 0.5, 0.5)))
    return rand_augment_transform(policy, {"translate_const": int(side * 0.45), "img_mean": mean})


def batches(
    data: TrainingData, entry: TrainEntry, ranks: Ranks, start: int, workers: int, *, by_turns: bool = False,
    pin: bool = False,
) -> Iterator[Batch]:  # fmt: skip
    """Yield this rank's part of every global batch from step `start` on. The caller's random state is kept.

    With `by_turns` the worker processes read only while a batch is waited for; `pin` puts batches into page-locked
    memory, for a GPU. Raises DataError for data that are damaged throughout.
    """
    turns = Turns() if by_turns and workers else None
    loader: DataLoader[Any] = DataLoader(
        _Reader(data, turns),
        batch_sampler=_Positions(entry, ranks, start),  # type: ignore[arg-type]  # ranges serve as lists
        num_workers=workers,
        collate_fn=_whole,
        pin_memory=pin,
        generator=torch.Generator().manual_seed(0),
        worker_init_fn=leave_signals_to_parent,
        multiprocessing_context="fork" if workers else None,  # which shares what was read of the data so far
    )
    with held_signals():
        iterator = iter(loader)
    try:
        while True:
            with undisturbed(), turns.readers() if turns is not None else nullcontext():
                try:
                    batch = next(iterator, None)
                except (EOFError, ConnectionError) as error:  # of one that was killed while it handed its batch over
                    raise _killed() from error
            if batch is None:
                return
            if isinstance(batch, SoupkitError):
                raise batch
            yield batch
    finally:
        if turns is not None:
            turns.close()


@contextmanager
def killed_workers_said() -> Iterator[None]:
    """Raise DataError for a worker that was killed. torch says so by RuntimeError, wherever the parent is just then."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise _killed() from error


def _killed() -> DataError:
    return DataError(
        "a process that reads the data was killed", "--workers",
        "often for lack of memory: take fewer; the same command goes on from the last checkpoint",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Positions:
    """The positions of this rank's samples, step by step from `start` on."""

    entry: TrainEntry
    ranks: Ranks
    start: int

    def __len__(self) -> int:
        return self.entry.steps - self.start

    def __iter__(self) -> Iterator[range]:
        part = self.entry.batch_size // self.ranks.size
        for step in range(self.start, self.entry.steps):
            first = step * self.entry.batch_size + self.ranks.rank * part
            yield range(first, first + part)


def _whole(batch: Any) -> Any:
    return batch
