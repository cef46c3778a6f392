"""A model that is in memory, scored on a torch Dataset of (picture, label): what `evaluate` does from files, without
files, caches or ranks."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import PIL.Image
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from soupkit.checkpoint.architecture import architecture_of
from soupkit.checkpoint.fingerprint import fingerprint
from soupkit.checkpoint.reference import open_checkpoint
from soupkit.device import choose_device
from soupkit.errors import ArchitectureError, DataError, UsageError
from soupkit.evaluation.adapter import build_model, fill_model, open_tokenizer, preprocess_of
from soupkit.evaluation.intervals import mcnemar
from soupkit.evaluation.outcomes import Hits, score_of
from soupkit.evaluation.prompts import fill_templates
from soupkit.evaluation.task import Pair, Score, Task
from soupkit.evaluation.transform import open_transform
from soupkit.progress import SILENT, Progress

TEMPLATES = ("a photo of a {c}.",)
_TOP = 5
_BATCH = 64  # images


class PictureData(Protocol):
    """What torch calls a map-style Dataset: `data[i]` is (picture, label), a PIL image or a tensor, and a class."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class LiveModel:
    """A model with what turns pictures and words into its inputs.

    It has `encode_image` and `encode_text`, as open_clip's have, or it returns logits [N, classes] for images.
    `preprocess` makes a tensor [3, height, width] of a PIL image; `tokenizer` takes a list of texts.
    """

    model: nn.Module
    preprocess: Callable[[Any], Tensor] | None = None
    tokenizer: Callable[[list[str]], Tensor] | None = None
    name: str = "model"
    fingerprint: str | None = None


@dataclass(frozen=True, slots=True)
class _NoFiles:
    """Stands where a task has its files: these images are in memory."""

    place: str

    def files(self) -> list[str]:
        return []

    def beside_files(self) -> str:
        return ""

    def __len__(self) -> int:
        return 0

    def some(self, limit: int) -> list[int]:
        return []

    def read(self, index: int) -> Any:
        raise DataError("has no files", self.place, "give the data set itself")


def open_live_model(
    ref: str | Path, *, model: str | None = None, preprocess: Path | None = None, device: str = "auto"
) -> LiveModel:
    """Return the checkpoint `ref` as a model in memory, in float32.

    Raises what opening a checkpoint raises; ArchitectureError for one that open_clip does not build.
    """
    chosen = choose_device(device)
    with open_checkpoint(ref) as checkpoint:
        config = architecture_of(checkpoint, model=model, preprocess=preprocess).config
        if config is None:
            raise ArchitectureError("is no model that open_clip builds", ref, "say which it is with model=NAME")
        transform = open_transform(preprocess_of(config), ref)
        tokenizer = open_tokenizer(config, checkpoint.tokenizer_files, ref)
        built = build_model(config, chosen, torch.float32, random=False)
        fill_model(built, checkpoint)
        value = fingerprint(checkpoint).value
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (transform.mean, transform.std))

    def pixels(picture: PIL.Image.Image) -> Tensor:
        cropped = torch.tensor(transform.crop(picture.convert("RGB"))).permute(2, 0, 1)  # [3, height, width]
        return cropped.float().div_(255).sub_(mean).div_(std)

    return LiveModel(built, pixels, tokenizer, str(ref), value)


@torch.inference_mode()
def score_live(
    live: LiveModel,
    data: PictureData,
    *,
    classnames: Sequence[str] | None = None,
    templates: Sequence[str] = TEMPLATES,
    task: str = "dataset",
    split: str = "",
    batch_size: int | None = None,
    progress: Progress = SILENT,
) -> tuple[Score, Hits]:
    """Score a model on pictures and labels that are in memory, on the device where it is; the hits are image by image.

    `classnames` are the dataset's `classnames` or `classes` unless given; `templates` hold `{c}` where the name goes. A
    model without `encode_text` is taken for a classifier of these classes.

    Raises UsageError for what is missing, DataError for an item that is no (picture, label) of these classes.
    """
    names = class_names(data, classnames)
    if not len(data):
        raise DataError("holds no pictures", task, "give it some")
    with _evaluating(live.model) as model:
        device, dtype = _where(model)
        classifier = None
        if hasattr(model, "encode_text"):
            classifier = _classifier(live, names, templates, device, task)
        size = _BATCH if batch_size is None else batch_size
        labels, ranked = [], []
        progress.start(f"{live.name} on {task}", len(data), "images")
        for first in range(0, len(data), size):
            items = [_item(data, i, len(names), live, task) for i in range(first, min(first + size, len(data)))]
            images = _stacked([picture for picture, _ in items], f"{task}, items from {first}").to(device, dtype)
            logits = _logits(model, images, classifier)
            if logits.ndim != 2 or logits.shape[1] != len(names):
                shape = list(logits.shape)
                raise UsageError(
                    f"gives {shape} for {len(names)} classes", live.name, "give a name for each of its classes"
                )
            if not logits.isfinite().all():
                where = f"{live.name} on {task}, items from {first}"
                raise DataError("gives NaN or infinity", where, "check the weights, or use float32")
            labels += [label for _, label in items]
            ranked.append(logits.topk(min(_TOP, len(names)), dim=1).indices.cpu().numpy())
            progress.advance(len(items))
        progress.finish()
    truth = np.asarray(labels, np.int64)
    right = np.concatenate(ranked) == truth[:, None]
    hits = Hits(right[:, 0], right.any(axis=1) if len(names) >= _TOP else None, truth)
    described = Task(task, split, "classification", "acc1", _NoFiles(task), names, tuple(templates))
    return score_of(hits, described, live.name, live.fingerprint), hits


def class_names(data: PictureData, given: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the classes in order: those `given`, else the dataset's `classnames` or `classes`.

    Raises UsageError where nobody says them.
    """
    names: tuple[str, ...] = tuple(given or getattr(data, "classnames", ()) or getattr(data, "classes", ()) or ())
    if not names:
        raise UsageError("has no class names", "classnames", "give one for each label, in order")
    return names


def paired(scored: Sequence[tuple[Score, Hits]]) -> tuple[Pair, ...]:
    """Return McNemar's test of the first model against every other, image by image."""
    return tuple(
        Pair(
            scored[0][0].ref, score.ref, score.task, score.split, int((first & ~other.top1).sum()),
            int((other.top1 & ~first).sum()), mcnemar(first, other.top1),
        )
        for first in [scored[0][1].top1]
        for score, other in scored[1:]
    )  # fmt: skip


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[Any]:
    """Hold a model in evaluation mode, and give it back as it was."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes.items():
            module.training = training


def _where(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    first = next(model.parameters(), None)
    return (first.device, first.dtype) if first is not None else (torch.device("cpu"), torch.float32)


def _classifier(
    live: LiveModel, names: Sequence[str], templates: Sequence[str], device: torch.device, task: str
) -> Tensor:
    """Return [embed, classes]: for each class the mean of its prompts' features, each of length one, made so again."""
    model: Any = live.model
    tokenizer = live.tokenizer
    if tokenizer is None:
        import open_clip

        length = getattr(model, "context_length", 77)

        def tokenizer(texts: list[str]) -> Tensor:
            return open_clip.tokenize(texts, length)

    rows = []
    for name in names:
        features = model.encode_text(tokenizer(list(fill_templates([name], templates, task))).to(device))
        rows.append(normalize(normalize(features.float(), dim=-1).mean(dim=0), dim=-1))
    return torch.stack(rows, dim=1)


def _logits(model: Any, images: Tensor, classifier: Tensor | None) -> Tensor:
    if classifier is None:
        return model(images).float()
    return normalize(model.encode_image(images).float(), dim=-1) @ classifier


def _stacked(pictures: list[Tensor], where: str) -> Tensor:
    """Return pictures [N, 3, height, width]. Raises DataError for those of different shapes."""
    if len(shapes := {tuple(picture.shape) for picture in pictures}) > 1:
        raise DataError(f"differ in shape: {sorted(shapes)[:2]}", where, "preprocess them to one size")
    return torch.stack(pictures)


def _item(data: PictureData, index: int, classes: int, live: LiveModel, task: str) -> tuple[Tensor, int]:
    item = data[index]
    where = f"{task}, item {index}"
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise DataError(f"is {type(item).__name__}, and not (picture, label)", where, "as ImageFolder gives them")
    picture, label = item
    if isinstance(label, bool) or not hasattr(label, "__index__") or not 0 <= int(label) < classes:
        raise DataError(f"has the label {label!r:.40}", where, f"labels count from 0 to {classes - 1}")
    if not isinstance(picture, Tensor):
        if live.preprocess is None:
            raise UsageError(
                "is missing for pictures that are no tensors", "preprocess", "give open_clip's, or your own"
            )
        picture = live.preprocess(picture)
    if not isinstance(picture, Tensor) or not picture.is_floating_point():
        kind = str(picture.dtype) if isinstance(picture, Tensor) else type(picture).__name__
        raise DataError(f"is a picture in {kind}", where, "preprocess makes a float tensor [3, height, width] of it")
    return picture, int(label)
