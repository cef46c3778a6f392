"""Reads the WebDataset folders that CLIP_benchmark publishes: shards, class names and templates in one directory."""

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import PIL.Image

from soupkit.errors import DataError

DIGITS = Path(__file__).parents[1] / "data" / "digits"
_IMAGES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """One split of a classification dataset, decoded to RGB; `labels` index `classnames`."""

    images: tuple[PIL.Image.Image, ...]
    labels: tuple[int, ...]
    classnames: tuple[str, ...]
    templates: tuple[str, ...]


def read_split(directory: Path, split: str) -> LabelledImages:
    """Read `directory/split/*.tar` whole. Raises DataError, naming the file, for what is missing or damaged."""
    classnames = _lines(directory / "classnames.txt")
    templates = _lines(directory / "zeroshot_classification_templates.txt")
    count = _lines(directory / split / "nshards.txt")[0]
    if not count.isdigit():
        raise DataError(f"should be the number of shards, not {count!r}", directory / split / "nshards.txt")
    images, labels = [], []
    for i in range(int(count)):
        shard = directory / split / f"{i}.tar"
        for key, image, label in _read_shard(shard):
            if not 0 <= label < len(classnames):
                raise DataError(
                    f"label {label} is out of range; there are {len(classnames)} classes", f"{shard}, {key}"
                )
            images.append(image)
            labels.append(label)
    if not images:
        raise DataError("holds no images", directory / split)
    return LabelledImages(tuple(images), tuple(labels), tuple(classnames), tuple(templates))


def _lines(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot be read: {error}", path, "this should be a folder in CLIP_benchmark's layout"
        ) from error
    if not lines:
        raise DataError("is empty", path)
    return lines


def _read_shard(path: Path) -> list[tuple[str, PIL.Image.Image, int]]:
    """Return (key, image, label) of every sample; compression is detected."""
    parts: dict[str, dict[str, bytes]] = {}
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                file = archive.extractfile(member)
                if file is not None:
                    key, _, suffix = member.name.partition(".")
                    parts.setdefault(key, {})["." + suffix.lower()] = file.read()
    except (OSError, tarfile.TarError, EOFError) as error:
        raise DataError(f"cannot be read: {error}", path, "get the shard again") from error
    samples = []
    for key, sample in parts.items():
        data = next((sample[s] for s in _IMAGES if s in sample), None)
        try:
            if data is None or ".cls" not in sample:
                raise ValueError("the sample lacks an image or a label")
            samples.append((key, PIL.Image.open(io.BytesIO(data)).convert("RGB"), int(sample[".cls"])))
        except (OSError, ValueError) as error:
            raise DataError(f"is damaged: {error}", f"{path}, sample {key}") from error
    return samples
