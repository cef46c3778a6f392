"""Eight small tasks of real images of 28 x 28 pixels, made from packages that install anywhere.

digits                  the handwritten digits of scikit-learn
fashion                 Debian's dataset-fashion-mnist
clipart, stamps         Debian's openclipart-png and tuxpaint-stamps-default: drawings, cut-out photographs, by folder
google, apple, ...      npm's emoji-datasource-*: one set of pictures in four styles, by category

Below `--data` lie `usr/share/...`, as `dpkg -x` leaves it there, and `emoji/STYLE/package`, as tar unpacks npm's files.
"""

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from benchmarks.soups.scenes import find_source, read_garments

SIDE = 28
STYLES = ("google", "apple", "twitter", "facebook")
TASKS = ("digits", "fashion", "clipart", "stamps", *STYLES)
_LEAST, _MOST = 30, 300  # images of a folder that makes a class
_LARGEST = 100_000  # bytes of a file: some drawings have hundreds of millions of pixels
_SHARES = (0.6, 0.2)  # of train and val; the rest is test
_EXTRA = "Component"  # a category of emoji that holds skin tones and hair alone

Labelled = tuple[Tensor, Tensor]  # uint8 [N, 3, 28, 28] and int64 [N]


@dataclass(frozen=True, slots=True)
class Task:
    """Images and labels in three splits that share no image."""

    name: str
    classes: int
    train: Labelled
    val: Labelled
    test: Labelled

    def first(self, n: int) -> "Task":
        """Return the task with the first `n` images of val and of test alone."""
        val, test = ((images[:n], labels[:n]) for images, labels in (self.val, self.test))
        return replace(self, val=val, test=test)


def read_task(name: str, data: Path | None, work: Path) -> Task:
    """Return a task; what is slow to read is kept below `work`. Exits with what to do where its images are missing."""
    kept = work / "images" / f"{name}.npz"
    if not kept.is_file():
        splits = _SOURCES[name](name, data)
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(kept, *(array for pair in splits for array in pair))
    arrays = [torch.from_numpy(array) for array in np.load(kept).values()]
    return Task(name, int(arrays[1].max()) + 1, *zip(arrays[::2], arrays[1::2], strict=True))


Splits = list[tuple[np.ndarray, np.ndarray]]


def _digits(_: str, __: Path | None) -> Splits:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = [_thumbnail(PIL.Image.fromarray((p.reshape(8, 8) * (255 / 16)).astype(np.uint8))) for p in pixels]
    return _split(images, labels)


def _fashion(_: str, data: Path | None) -> Splits:
    source = find_source(data)
    images, labels = read_garments(source, "train")
    test_images, test_labels = read_garments(source, "t10k")
    parts = [(images[:6000], labels[:6000]), (images[-400:], labels[-400:]), (test_images[:1000], test_labels[:1000])]
    return [(np.repeat(i[:, None], 3, axis=1), k.astype(np.int64)) for i, k in parts]


def _folders(name: str, data: Path | None) -> Splits:
    """Drawings, each folder with enough of them a class. What is not sorted by what it shows is left out."""
    relative = {"clipart": "usr/share/openclipart/png", "stamps": "usr/share/tuxpaint/stamps"}[name]
    package = {"clipart": "openclipart-png", "stamps": "tuxpaint-stamps-default"}[name]
    root = _found(data, relative, f"apt-get download {package} && dpkg -x {package}_*.deb DIR")
    images, labels, kinds = [], [], 0
    for folder in sorted(root.iterdir()):
        files = sorted(f for f in folder.rglob("*.png") if "mirror" not in f.name and f.stat().st_size < _LARGEST)
        if len(files) < _LEAST or folder.name in ("unsorted", "special"):
            continue
        step = max(1, len(files) // _MOST)
        images += [_opened(f) for f in files[::step][:_MOST]]
        labels += [kinds] * len(files[::step][:_MOST])
        kinds += 1
    return _split(images, labels)


def _emoji(style: str, data: Path | None) -> Splits:
    """Emoji that all styles have, each in the same split in all of them."""
    pack = f"npm pack emoji-datasource-{style}@16.0.0"
    unpack = f"mkdir -p DIR/emoji/{style} && tar xzf emoji-datasource-{style}-16.0.0.tgz -C DIR/emoji/{style}"
    root = _found(data, f"emoji/{style}/package", f"{pack} && {unpack}")
    rows = [row for row in json.loads((root / "emoji.json").read_text()) if row["category"] != _EXTRA]
    rows = [row for row in rows if all(row[f"has_img_{s}"] for s in STYLES)]
    categories = sorted({row["category"] for row in rows})
    images = [_opened(root / "img" / style / "64" / row["image"]) for row in rows]
    return _split(images, [categories.index(row["category"]) for row in rows])


_SOURCES: dict[str, Callable[[str, Path | None], Splits]] = {
    "digits": _digits,
    "fashion": _fashion,
    "clipart": _folders,
    "stamps": _folders,
    **dict.fromkeys(STYLES, _emoji),
}


def _found(data: Path | None, relative: str, how: str) -> Path:
    for root in (data, Path("/")):
        if root is not None and (root / relative).is_dir():
            return root / relative
    sys.exit(f"{relative} is neither below --data nor below /. This gets it, and then --data DIR:\n  {how}")


def _opened(path: Path) -> np.ndarray:
    with PIL.Image.open(path) as image:
        return _thumbnail(image)


def _thumbnail(image: PIL.Image.Image) -> np.ndarray:
    """Return an image on white, uint8 [3, 28, 28]."""
    drawn = image.convert("RGBA").resize((SIDE, SIDE), PIL.Image.Resampling.BILINEAR)
    sheet = PIL.Image.new("RGBA", drawn.size, "white")
    sheet.alpha_composite(drawn)
    return np.asarray(sheet.convert("RGB")).transpose(2, 0, 1)


def _split(images: Iterable[np.ndarray], labels: Iterable[int]) -> Splits:
    """Deal images out to train, val and test in a fixed random order."""
    pixels, kinds = np.stack(list(images)), np.asarray(list(labels), np.int64)
    order = np.random.default_rng(0).permutation(len(pixels))
    cuts = np.cumsum([int(share * len(pixels)) for share in _SHARES])
    return [(pixels[part], kinds[part]) for part in np.split(order, cuts)]
