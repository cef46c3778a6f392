"""Which of some labels an image shows: the example of open_clip's README, for any reference."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import PIL.Image
import torch
from torch.nn.functional import normalize

from soupkit.checkpoint.architecture import architecture_of
from soupkit.checkpoint.fingerprint import fingerprint
from soupkit.checkpoint.reference import open_checkpoint
from soupkit.device import choose_device
from soupkit.errors import ArchitectureError, DataError, UsageError
from soupkit.evaluation.adapter import build_model, fill_model, open_tokenizer, preprocess_of
from soupkit.evaluation.options import precision_dtype
from soupkit.evaluation.shard_index import MOST_IMAGE_BYTES
from soupkit.evaluation.transform import Transform, decode_as_stored, open_transform
from soupkit.files import read_bytes
from soupkit.progress import SILENT, Progress

_SCALE = 100.0  # what open_clip's example multiplies cosines by, whatever the model's own logit scale


@dataclass(frozen=True, slots=True)
class Labelled:
    """`probabilities[i][j]` that image i shows label j: of a softmax over the labels, or of a sigmoid for each where
    the model has a logit bias (SigLIP). `kind` says which."""

    labels: tuple[str, ...]
    probabilities: tuple[tuple[float, ...], ...]
    kind: str
    fingerprint: str


@torch.inference_mode()
def label_images(
    ref: str,
    images: Sequence[Path],
    labels: Sequence[str],
    *,
    model: str | None = None,
    preprocess: Path | None = None,
    device: str = "auto",
    precision: str | None = None,
    progress: Progress = SILENT,
) -> Labelled:
    """Compare `images` with `labels` by the checkpoint `ref`.

    Raises UsageError without labels and for one that is empty or given twice, DataError for files that are no images,
    and as opening a checkpoint does.
    """
    if not labels:
        raise UsageError("names no label", "--label", 'for example --label "a dog" --label "a cat"')
    if not all(label.strip() for label in labels):
        raise UsageError("names an empty label", "--label", "say in words what an image may show")
    if len(set(labels)) < len(labels):
        raise UsageError("names a label twice", "--label", "give each label once")
    pictures = [_open_image(path) for path in images]
    chosen = choose_device(device)
    dtype = precision_dtype(precision, chosen)
    with open_checkpoint(ref) as checkpoint:
        config = architecture_of(checkpoint, model=model, preprocess=preprocess).config
        if config is None:
            raise ArchitectureError("is no model that open_clip builds", ref, "say which it is with --model NAME")
        transform = open_transform(preprocess_of(config), ref)
        tokens = open_tokenizer(config, checkpoint.tokenizer_files, ref)(list(labels)).to(chosen)
        live = build_model(config, chosen, dtype, random=False, progress=progress)
        fill_model(live, checkpoint)
        print_of_weights = fingerprint(checkpoint).value
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (transform.mean, transform.std))
    pixels = torch.stack([_pixels(transform, picture, path) for picture, path in zip(pictures, images, strict=True)])
    x = pixels.float().div_(255).sub_(mean).div_(std).to(chosen, dtype)
    image_features = normalize(live.encode_image(x).float(), dim=-1)  # type: ignore[operator]
    text_features = normalize(live.encode_text(tokens).float(), dim=-1)  # type: ignore[operator]
    cosines = image_features @ text_features.T
    bias = getattr(live, "logit_bias", None)
    if bias is not None:
        scale: torch.Tensor = live.logit_scale.exp()  # type: ignore[operator]
        chances, kind = torch.sigmoid(cosines * scale.float() + bias.float()), "sigmoid"
    else:
        chances, kind = (_SCALE * cosines).softmax(dim=-1), "softmax"
    return Labelled(tuple(labels), tuple(tuple(row) for row in chances.cpu().tolist()), kind, print_of_weights)


def _open_image(path: Path) -> PIL.Image.Image:
    try:
        data = read_bytes(path, MOST_IMAGE_BYTES)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path, "name image files that exist") from error
    try:
        return decode_as_stored(data)
    except (OSError, ValueError) as error:
        raise DataError(f"is no image that can be decoded: {error}", path, "name an image file") from error


def _pixels(transform: Transform, picture: PIL.Image.Image, path: Path) -> torch.Tensor:
    """Return what the model sees of an image before it is normalised, uint8 [3, height, width]."""
    try:
        return torch.tensor(transform.crop(picture)).permute(2, 0, 1)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be resized: {error}", path, "convert it to RGB first") from error
