"""Batches for one rank: reads, decodes, augments and tokenizes, in worker processes where there are cores for it."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from soupkit.errors import CheckpointError, DataError
from soupkit.evaluation.adapter import Tokenizer, preprocess_of
from soupkit.evaluation.transform import decode
from soupkit.ranks import Ranks
from soupkit.training.entry import TrainEntry
from soupkit.training.order import Balanced, Mixture, order_of, seed_of, turn
from soupkit.training.sources import Source, open_source

_SUBSTITUTES = 32  # how many samples in a row may be damaged before the data are given up


@dataclass(frozen=True, slots=True)
class Batch:
    """One rank's part of a global batch: images float32 [B, 3, H, W], texts int64 [B, context]; what was damaged."""

    images: Tensor
    texts: Tensor
    damaged: tuple[str, ...]


class TrainingData(Dataset[tuple[Tensor, Tensor, str]]):
    """Sample number `position` of a run, for any position: everything random about it is drawn from that number."""

    def __init__(self, entry: TrainEntry, config: dict[str, Any], tokenizer: Tokenizer) -> None:
        """Raises DataError for data that cannot be read, CheckpointError for a transform that open_clip refuses."""
        entries = entry.sources
        self.sources: list[Source] = [open_source(e) for e in entries]
        self._seed = entry.seed
        self._orders = [
            order_of(
                s.sizes, s.labels, seed_of(entry.seed, "order", i), share=e.share, balanced=e.balanced,
                block=e.shuffle_shards,
            )
            for i, (e, s) in enumerate(zip(entries, self.sources, strict=True))
        ]  # fmt: skip
        self._mixture = Mixture(tuple(e.weight or e.share * len(s) for e, s in zip(entries, self.sources, strict=True)))
        self._transform = _training_transform(preprocess_of(config), entry.augmentation)
        self._tokens = lru_cache(maxsize=1 << 14)(lambda text: tokenizer([text])[0])

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor, str]:
        source, k = self._mixture(position)
        order, chosen = self._orders[source], self.sources[source]
        damaged = ""
        for attempt in range(_SUBSTITUTES):
            index = order(k) if not attempt else seed_of(self._seed, position, attempt) % len(chosen)
            try:
                data, captions = chosen.read(index)
                image = decode(data)
            except (OSError, ValueError, DataError) as error:
                damaged = damaged or f"{chosen.place}, sample {index}: {error}"
                continue
            seed = seed_of(self._seed, "sample", position)
            if isinstance(order, Balanced):  # in turn, so that a batch of them holds no caption twice
                classes = len(order.classes)
                caption = captions[turn(len(captions), self._seed, k // classes)]
            else:
                caption = captions[seed % len(captions)]
            # Augmentation draws on the CPU. `torch.manual_seed` would also note a stack trace for every other device.
            torch.default_generator.manual_seed(seed)
            random.seed(seed)
            return self._transform(image), self._tokens(caption), damaged
        raise DataError(f"{_SUBSTITUTES} samples in a row are damaged", damaged, "look at the data")


def _training_transform(preprocess: dict[str, Any], augmentation: dict[str, Any]) -> Callable[[Any], Tensor]:
    """Return open_clip's own augmentation for training."""
    from open_clip.transform import AugmentationCfg, PreprocessCfg, image_transform_v2

    known = {k: v for k, v in preprocess.items() if k in PreprocessCfg.__dataclass_fields__ and v is not None}
    try:
        settings = AugmentationCfg(**{k: tuple(v) if isinstance(v, list) else v for k, v in augmentation.items()})
        return image_transform_v2(PreprocessCfg(**known), is_train=True, aug_cfg=settings)
    except (TypeError, ValueError, AssertionError) as error:
        raise CheckpointError(f"open_clip refuses the augmentation: {error}", "augmentation") from error


def batches(data: TrainingData, entry: TrainEntry, ranks: Ranks, start: int, workers: int) -> Iterator[Batch]:
    """Yield this rank's part of every global batch from step `start` on. The caller's random state is kept."""
    part = entry.batch_size // ranks.size
    first = ranks.rank * part
    positions = [
        range(step * entry.batch_size + first, step * entry.batch_size + first + part)
        for step in range(start, entry.steps)
    ]
    loader: DataLoader[Any] = DataLoader(
        data,
        batch_sampler=positions,  # type: ignore[arg-type]  # ranges serve as lists, and take no memory
        num_workers=workers,
        collate_fn=_collate,
        generator=torch.Generator().manual_seed(0),
        prefetch_factor=4 if workers else None,
    )
    iterator = iter(loader)
    while True:
        with torch.random.fork_rng(devices=[]):
            try:
                batch = next(iterator)
            except StopIteration:
                return
        yield Batch(*batch)


def _collate(samples: Sequence[tuple[Tensor, Tensor, str]]) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    images, texts, damaged = zip(*samples, strict=True)
    return torch.stack(images), torch.stack(texts), tuple(d for d in damaged if d)
