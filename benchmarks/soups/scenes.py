"""Make Fashion-MNIST into captioned scenes: training shards of WebDataset, and a task in CLIP_benchmark's layout.

A scene is a grid of two by two garments of 28 x 28 pixels, some of them empty. The garments of the training file's
first 50,000 make the training scenes, its last 10,000 the split `val`, the test file the split `test`.

train/{0..7}.tar   1 to 4 garments; the caption names each with a chance of 4 in 5 (one at least), mostly with its place
single/            one garment, anywhere in an otherwise empty scene
"""

import argparse
import gzip
import io
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import PIL.Image

from benchmarks.tools.commands import Subject

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
CELLS = ("top left", "top right", "bottom left", "bottom right")
TEMPLATES = ("photo of {c}", *(f"{{c}} {cell}" for cell in CELLS))
SCENES, SHARDS = 40_000, 8
_COUNTS = (0.1, 0.3, 0.3, 0.3)  # of one to four garments
_NAMED, _PLACED = 0.8, 0.75  # chances that a garment is named, and that the caption says where
_SIDE = 28

Garments = tuple[np.ndarray, np.ndarray]  # uint8 [N, 28, 28] and their classes, uint8 [N]


def add_data_argument(parser: argparse.ArgumentParser) -> None:
    """Add where the images come from."""
    parser.add_argument("--data", type=Path, help="folder with Fashion-MNIST's four files")


def scenes(arguments: argparse.Namespace) -> list[str]:
    """Make them, and return where they are."""
    made = make_scenes(find_source(arguments.data), arguments.work / "fashion-mnist")
    return [f"`{made}`: {SCENES:,} scenes to train on, and the task `{made / 'single'}`"]


def find_source(given: Path | None) -> Path:
    """Return the folder with Fashion-MNIST's four files. Exits with what to do where there is none."""
    for folder in (DEBIAN,) if given is None else (given, given / DEBIAN.relative_to("/")):
        if (folder / "train-images-idx3-ubyte.gz").is_file():
            return folder
    sys.exit(
        f"Fashion-MNIST is not in {given or DEBIAN}. On Debian, install dataset-fashion-mnist, or\n"
        "  apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb there\n"
        "and add --data there. Elsewhere --data names a folder with its four files, train-images-idx3-ubyte.gz, ..."
    )


def make_scenes(source: Path, folder: Path, *, count: int = SCENES) -> Path:
    """Write the shards and the task to `folder`; kept when they are there. Interrupted, they are made anew."""
    if (folder / "done").is_file():
        return folder
    images, labels = read_garments(source, "train")
    cut = len(images) * 5 // 6
    splits = {"val": (images[cut:], labels[cut:]), "test": read_garments(source, "t10k")}
    (folder / "train").mkdir(parents=True, exist_ok=True)
    drawn = training_scenes((images[:cut], labels[:cut]), count)
    for shard in range(SHARDS):
        pairs = ((png, {"txt": text}) for png, text in (next(drawn) for _ in range(count // SHARDS)))
        write_shard(folder / "train" / f"{shard}.tar", pairs)
    write_task(folder / "single", {split: single_scenes(garments) for split, garments in splits.items()}, TEMPLATES)
    (folder / "done").touch()
    return folder


def write_task(folder: Path, splits: Mapping[str, Iterator[tuple[bytes, int]]], templates: Sequence[str]) -> None:
    """Write PNG files with their classes, by split, as a task in CLIP_benchmark's layout."""
    for split, pairs in splits.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        write_shard(folder / split / "0.tar", ((png, {"cls": str(c)}) for png, c in pairs))
        (folder / split / "nshards.txt").write_text("1\n")
    (folder / "classnames.txt").write_text("\n".join(CLASSES) + "\n")
    (folder / "zeroshot_classification_templates.txt").write_text("\n".join(templates) + "\n")


def read_garments(source: Path, part: str) -> Garments:
    """Read images and labels of "train" or "t10k" in the IDX format."""
    pixels = gzip.decompress((source / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((source / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    images = np.frombuffer(pixels, np.uint8, offset=16).reshape(-1, _SIDE, _SIDE)
    return images, np.frombuffer(labels, np.uint8, offset=8)


def training_scenes(garments: Garments, count: int) -> Iterator[tuple[bytes, str]]:
    """Yield scenes as PNG files with their captions; every garment is used once before any is used again."""
    images, labels = garments
    generator = np.random.default_rng(0)
    deck = np.empty(0, np.int64)
    for _ in range(count):
        n = int(generator.choice(4, p=_COUNTS)) + 1
        if len(deck) < n:
            deck = np.concatenate([deck, generator.permutation(len(images))])
        chosen, deck = deck[:n], deck[n:]
        cells = np.sort(generator.choice(4, n, replace=False))
        yield draw(images[chosen], cells), caption(labels[chosen], cells, generator)


def caption(labels: np.ndarray, cells: np.ndarray, generator: np.random.Generator) -> str:
    """Say what a scene holds, in reading order, as incompletely as captions are."""
    named = np.flatnonzero(generator.random(len(labels)) < _NAMED)
    if not len(named):
        named = generator.integers(len(labels), size=1)
    words = [CLASSES[labels[i]] for i in named]
    if generator.random() < _PLACED:
        return ", ".join(f"{word} {CELLS[cells[i]]}" for word, i in zip(words, named, strict=True))
    return "photo of " + " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def single_scenes(garments: Garments) -> Iterator[tuple[bytes, int]]:
    """Yield one scene for every garment, with its class."""
    generator = np.random.default_rng(1)
    for i, label in enumerate(garments[1]):
        yield draw(garments[0][i : i + 1], generator.integers(4, size=1)), int(label)


def draw(garments: np.ndarray, cells: np.ndarray) -> bytes:
    """Return a PNG file with `garments` [n, 28, 28] in `cells` [n] of the grid."""
    scene = np.zeros((2 * _SIDE, 2 * _SIDE), np.uint8)
    for garment, cell in zip(garments, cells, strict=True):
        row, column = _SIDE * (cell // 2), _SIDE * (cell % 2)
        scene[row : row + _SIDE, column : column + _SIDE] = garment
    return png_of(scene)


def png_of(pixels: np.ndarray) -> bytes:
    """Return `pixels`, uint8 [height, width], as a PNG file."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def write_shard(path: Path, samples: Iterator[tuple[bytes, dict[str, str]]]) -> None:
    """Write a tar file of PNG files, each with the texts that belong to it by suffix."""
    with tarfile.open(path, "w") as archive:
        for number, (png, texts) in enumerate(samples):
            for suffix, data in (("png", png), *((s, t.encode()) for s, t in texts.items())):
                member = tarfile.TarInfo(f"{number:06d}.{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


SUBJECT = Subject("scenes", __doc__, add_data_argument, scenes, needs_work=True)
