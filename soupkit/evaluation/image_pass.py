"""The pass: pixels through a live image tower, and ranked where they are; what comes back is one bit per image.

Batches have one shape, the last one padded, so that what a model answers for an image does not depend on what else is
scored. Nothing waits for the device before the end of a pass.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from tempfile import TemporaryFile, gettempdir

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from soupkit.errors import CheckpointError, StorageError
from soupkit.evaluation.head_models import head_logits
from soupkit.evaluation.outcomes import RECALLS, Hits, Ranking, Retrieval
from soupkit.evaluation.pixels import Pixels
from soupkit.progress import SILENT, Progress
from soupkit.system import reserve

_TOP = 5
_CAPTIONS = 1024  # captions or images that are compared with all of the others at a time


@dataclass(frozen=True, slots=True)
class Pass:
    """How images go through a model: where, in which dtype, `batch` at a time, normalised by `mean` and `std`.

    `compiled` has `torch.compile` make one program of the tower; a model with a `head` gives logits, any other features
    that become of length one; `keep_logits` has what a classification compares kept, on disk; `subject` is what errors
    call the model.
    """

    device: torch.device
    dtype: torch.dtype
    batch: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    compiled: bool = False
    head: bool = False
    keep_logits: bool = False
    subject: str = "the model"

    def tower(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        """Return the image tower of `model`, or all of one with a head; models of one architecture share what is
        compiled."""
        encode: Callable[[Tensor], Tensor] = partial(head_logits, model) if self.head else model.encode_image  # type: ignore[assignment]
        return torch.compile(encode, dynamic=False) if self.compiled else encode


def scale_and_shift(how: Pass, width: int) -> tuple[Tensor, Tensor]:
    """Return what uint8 pixels are multiplied with and what is added, float32 [3 width] on the device, so that the
    result is (pixel / 255 - mean) / std: one multiplication in place of open_clip's two divisions and a subtraction,
    equal up to rounding."""
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (how.mean, how.std))
    return tuple(t.float().repeat(width).to(how.device) for t in (1 / (255 * std), -mean / std))  # type: ignore[return-value]


def normalise(x: Tensor, stored: Tensor, scale: Tensor, shift: Tensor) -> None:
    """Fill `x` (float32 [n, height, 3 width]) with `stored` (uint8) x `scale` + `shift` [3 width]."""
    x.copy_(stored)
    torch.addcmul(shift, x, scale, out=x)


@torch.inference_mode()
def image_features(
    model: nn.Module, pixels: Pixels, rows: np.ndarray, how: Pass, progress: Progress = SILENT
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Yield batch by batch which of `rows` (int64 [n]) it holds, and their features, float32 [b, embed], length one,
    or the logits of a model with a head, float32 [b, outputs].

    Raises CheckpointError after the last batch when features were not finite.
    """
    encode = how.tower(model)
    _, height, width, channels = pixels.images.shape
    scale, shift = scale_and_shift(how, width)
    # One buffer for the whole pass, and pixels left in the order in which they are stored (channels last, which the
    # first convolution is faster with): on two cores this takes 0.5 ms for 32 images of 224 px.
    x = torch.zeros(how.batch, height, width * channels, device=how.device)
    finite = torch.ones((), dtype=torch.bool, device=how.device)
    for start in range(0, len(rows), how.batch):
        part = rows[start : start + how.batch]
        stored = torch.from_numpy(pixels.take(part)).view(len(part), height, width * channels)
        if how.device.type == "cuda":
            stored = stored.pin_memory().to(how.device, non_blocking=True)
        normalise(x[: len(part)], stored, scale, shift)
        images = x.view(how.batch, height, width, channels).permute(0, 3, 1, 2).to(how.dtype)
        features = encode(images)[: len(part)].float()
        features = features if how.head else normalize(features, dim=-1)
        finite &= features.isfinite().all()
        yield part, features
        progress.advance(len(part))
    check_finite(finite, "images", how)


def check_finite(finite: Tensor, what: str, how: Pass) -> None:
    """Raise CheckpointError where `finite` is false: what is not a number is nearest to nothing, and no score."""
    if not finite:
        hint = "its weights may hold NaN or infinity" if how.dtype == torch.float32 else "try --precision fp32"
        dtype = str(how.dtype).removeprefix("torch.")
        raise CheckpointError(f"gives features of {what} that are not finite in {dtype}", how.subject, hint)


@torch.inference_mode()
def classify(
    model: nn.Module,
    classifiers: Sequence[Tensor],
    pixels: Pixels,
    rows: np.ndarray,
    how: Pass,
    progress: Progress = SILENT,
) -> list[Hits]:
    """Return the hits of one image tower with each of several classifiers, [embed, classes] each, on `rows`."""
    labels = torch.from_numpy(pixels.labels[rows]).to(how.device)
    classes = classifiers[0].shape[1]
    top = min(_TOP, classes)
    right = torch.zeros(len(classifiers), len(rows), top, dtype=torch.bool, device=how.device)
    chosen = torch.zeros(len(classifiers), len(rows), dtype=torch.int64, device=how.device)
    margins = torch.zeros(len(classifiers), len(rows), device=how.device)
    kept = [on_disk(len(rows), classes).numpy() if how.keep_logits else None for _ in classifiers]
    done = 0
    for part, features in image_features(model, pixels, rows, how, progress):
        here = slice(done, done + len(part))
        for i, classifier in enumerate(classifiers):
            logits = features @ classifier
            if (all_logits := kept[i]) is not None:
                all_logits[here] = logits.cpu().numpy()
            values, ranked = logits.topk(top, dim=1)
            right[i, here] = ranked == labels[here, None]
            chosen[i, here] = ranked[:, 0]
            margins[i, here] = _margins(logits, values, labels[here], right[i, here, 0])
        done += len(part)
    first = right[:, :, 0].cpu().numpy()
    five = right.any(dim=2).cpu().numpy() if classes >= _TOP else [None] * len(classifiers)
    predicted = chosen.cpu().numpy()
    groups = pixels.groups[rows] if (pixels.groups >= 0).all() else None
    labels_of_rows = pixels.labels[rows]
    apart = margins.cpu().numpy()
    return [
        Hits(first[i], five[i], labels_of_rows, predicted[i], groups, kept[i], margins=apart[i])
        for i in range(len(classifiers))
    ]


def _margins(logits: Tensor, values: Tensor, labels: Tensor, right: Tensor) -> Tensor:
    """Return how far the first of the `values` [b, top] of `logits` [b, classes] lies above the second where it is that
    of the label and `right`, else above that of the label; float32 [b], and infinity where there is one class."""
    if values.shape[1] == 1:
        return torch.full_like(values[:, 0], torch.inf)
    own = logits.gather(1, labels.clamp(0, logits.shape[1] - 1)[:, None])[:, 0]
    return values[:, 0] - torch.where(right, values[:, 1], own)


@torch.inference_mode()
def rank_labels(
    model: nn.Module,
    classifiers: Sequence[Tensor],
    pixels: Pixels,
    rows: np.ndarray,
    how: Pass,
    progress: Progress = SILENT,
) -> list[Ranking]:
    """Return every class's score for every image of a multi-label task, for each of several classifiers."""
    scores = [on_disk(len(rows), w.shape[1]) for w in classifiers]
    done = 0
    for part, features in image_features(model, pixels, rows, how, progress):
        for kept, classifier in zip(scores, classifiers, strict=True):
            kept[done : done + len(part)] = (features @ classifier).cpu()
        done += len(part)
    return [Ranking(s.numpy(), pixels.labels[rows]) for s in scores]


def on_disk(*shape: int) -> Tensor:
    """Return a float32 tensor in a nameless temporary file: it takes page cache, not memory of one's own.

    Raises StorageError where there is no room for it.
    """
    nbytes = 4 * int(np.prod(shape))
    if not nbytes:
        return torch.zeros(shape)
    with TemporaryFile(prefix="soupkit-") as file:
        try:
            # A file with holes would end the process when the disk is full: a write to memory has no other answer.
            reserve(file.fileno(), nbytes)
        except OSError as error:
            raise StorageError(
                f"has no room for features: {nbytes / 1e9:.1f} GB are needed",
                gettempdir(),
                "name another place with TMPDIR",
            ) from error
        return torch.from_numpy(np.memmap(file, np.float32, "r+", shape=shape))


@torch.inference_mode()
def rehearse(model: nn.Module, size: tuple[int, int], how: Pass) -> None:
    """Run the image tower on one batch of nothing, height x width `size`, to see whether there is room for it."""
    images = torch.zeros(how.batch, *size, 3, device=how.device).permute(0, 3, 1, 2)
    how.tower(model)(images.to(how.dtype))


@torch.inference_mode()
def embed(model: nn.Module, pixels: Pixels, rows: np.ndarray, how: Pass, progress: Progress = SILENT) -> Tensor:
    """Return the features of images `rows`, float32 [n, embed] of length one, on disk; without rows, [0, 0]."""
    images: Tensor | None = None
    done = 0
    for part, features in image_features(model, pixels, rows, how, progress):
        if images is None:
            images = on_disk(len(rows), features.shape[1])
        images[done : done + len(part)] = features.cpu()
        done += len(part)
    return torch.zeros(0, 0) if images is None else images


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Return the ranks' features as one tensor, on disk."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat(list(parts), out=on_disk(sum(map(len, parts)), parts[0].shape[1]))


@torch.inference_mode()
def match(images: Tensor, captions: Tensor, image_of_caption: np.ndarray, device: torch.device) -> Retrieval:
    """Return the retrieval hits between features of `images` [n, embed] and of `captions` [m, embed].

    `image_of_caption` (int64 [m]) counts among the images. Who is nearest goes by the cosine.
    """
    owner, numbers = torch.from_numpy(image_of_caption), torch.arange(len(images))
    by_caption = [
        _among_nearest(captions[i : i + _CAPTIONS], images, device, owner[i : i + _CAPTIONS, None], None)
        for i in range(0, len(captions), _CAPTIONS)
    ]
    by_image = [
        _among_nearest(images[i : i + _CAPTIONS], captions, device, numbers[i : i + _CAPTIONS, None], owner)
        for i in range(0, len(images), _CAPTIONS)
    ]
    return Retrieval(np.concatenate(by_caption), np.concatenate(by_image), image_of_caption)


def _among_nearest(
    queries: Tensor, others: Tensor, device: torch.device, wanted: Tensor, owner: Tensor | None
) -> np.ndarray:
    """Whether what is `wanted` [n, 1] is among the nearest k of `others`, bool [n, 3]; `owner` maps them to images."""
    similarity = queries.to(device) @ others.to(device).T
    nearest = similarity.topk(min(max(RECALLS), len(others)), dim=1).indices.cpu()
    right = (nearest if owner is None else owner[nearest]) == wanted
    return np.stack([right[:, :k].any(dim=1).numpy() for k in RECALLS], axis=1)
