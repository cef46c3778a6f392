"""Train the pool that searches are measured on: fine-tunes of one small CLIP on Fashion-MNIST, for `real`, `memory`.

The images are those of Debian's package dataset-fashion-mnist, or any folder with its four files. Made once, kept
under `--work` for `real` and `memory`.
"""

import argparse
import gzip
import io
import json
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from benchmarks.tools.clock import CLOCKS
from benchmarks.tools.commands import Subject

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
CLASSES = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
TEMPLATES = [
    "a picture of a {c}.",
    "a grey {c}.",
    "this is a {c}.",
    "a {c} from a catalogue.",
    "one {c}, seen from the front.",
    "a tiny picture of a {c}.",
    "somebody sells a {c}.",
    "{c}",
]
# Parts of the published training set: what is trained on and what selects have no image in common.
SPLITS = {"train": slice(0, 20_000), "val": slice(57_000, 60_000)}

BASE: dict[str, Any] = {
    "model": {
        "model_cfg": {
            "embed_dim": 64,
            "vision_cfg": {"image_size": 28, "layers": 4, "width": 64, "head_width": 16, "patch_size": 7},
            "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
        },
        "preprocess_cfg": {"mean": [0.286] * 3, "std": [0.353] * 3},
    },
    "augmentation": {"scale": [0.7, 1.0]},
    "batch_size": 80,
    "samples": 40_000,
    "lr": 2e-3,
    "warmup": 2_000,
    "weight_decay": 0.1,
    "grad_clip": 1.0,
    "seed": 0,
}
# From timid to so bold that the run leaves its base: the rate stays high to the end, so that the runs scatter.
RATES = [4e-4, 8e-4, 1.2e-3, 2e-3, 4e-3]
LENGTHS = [3_200, 6_400, 8_000, 4_800]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ingredients", type=int, default=12)
    parser.add_argument("--data", type=Path, default=FASHION_MNIST, help="folder with Fashion-MNIST's four files")


def add_clock_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how a search over the pool is timed, and what the published procedure reads with."""
    parser.add_argument("--workers", type=int, default=2, help="loader processes of the published procedure")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")


def pool(arguments: argparse.Namespace) -> list[str]:
    """Write the images as a task, and train the pool on it."""
    task = write_task(arguments.data, arguments.work / "fashion-mnist")
    made = make_pool(task, arguments.work / "pool", arguments.ingredients)
    return [f"{len(made)} ingredients in {arguments.work / 'pool'}"]


def ingredients(work: Path, count: int) -> list[str]:
    """Return the first `count` ingredients of the pool under `work`. Exits with what to do where they are not made."""
    try:
        made = json.loads((work / "pool" / "pool.json").read_text())
    except FileNotFoundError:
        sys.exit(f"no pool in {work}: python -m benchmarks.search pool --work {work}")
    if len(made) < count:
        sys.exit(f"the pool has {len(made)} ingredients; make more with `pool --ingredients {count}`")
    return made[:count]


def write_task(source: Path, folder: Path, splits: Mapping[str, slice] = SPLITS) -> Path:
    """Write the images of `source` as a task that soupkit trains and selects on; kept when it is there."""
    if (folder / "val" / "nshards.txt").exists():
        return folder
    images = _read(source / "train-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    labels = _read(source / "train-labels-idx1-ubyte.gz", 8)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classnames.txt").write_text("\n".join(CLASSES) + "\n")
    (folder / "zeroshot_classification_templates.txt").write_text("\n".join(TEMPLATES) + "\n")
    for split, part in splits.items():
        (folder / split).mkdir(exist_ok=True)
        with tarfile.open(folder / split / "0.tar", "w") as archive:
            for n, (image, label) in enumerate(zip(images[part], labels[part], strict=True)):
                buffer = io.BytesIO()
                PIL.Image.fromarray(image).save(buffer, "PNG")
                for suffix, data in (("png", buffer.getvalue()), ("cls", str(label).encode())):
                    member = tarfile.TarInfo(f"s{n:05d}.{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
        (folder / split / "nshards.txt").write_text("1\n")
    return folder


def _read(path: Path, header: int) -> np.ndarray:
    """Read a file of MNIST's format: bytes after a header."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


def make_pool(task: Path, folder: Path, count: int) -> list[Path]:
    """Train the base and `count` fine-tunes of it; those that are there are kept."""
    made = fine_tunes(task, make_base(task, folder / "base"), folder, count)
    (folder / "pool.json").write_text(json.dumps([str(path) for path in made]))
    return made


def make_base(task: Path, folder: Path, **fields: Any) -> Path:
    """Train what is to be fine-tuned, unless it is there; `fields` of its entry are other ones."""
    from soupkit.training import TrainEntry

    data = {"shards": f"{task}:train", "balanced": True, "share": 0.5}
    return _train(TrainEntry.model_validate({**BASE, "data": data, **fields}), folder)


def fine_tunes(task: Path, base: Path, folder: Path, count: int) -> list[Path]:
    """Train `count` fine-tunes of `base` that differ in rate, length and the part of the data that they see; those that
    are there are kept."""
    from soupkit.training import TrainEntry

    made = []
    for i in range(count):
        own = {
            "model": None,
            "init": str(base),
            "data": {"shards": f"{task}:train", "balanced": True, "share": 0.2},
            "lr": RATES[i % len(RATES)],
            "samples": LENGTHS[i % len(LENGTHS)],
            "warmup": 400,
            "schedule": "constant",
            "seed": 1 + i,
        }
        made.append(_train(TrainEntry.model_validate({**BASE, **own}), folder / f"run{i:02}"))
    return made


def _train(entry: Any, folder: Path) -> Path:
    from soupkit.progress import SILENT
    from soupkit.training import TrainOptions, train

    return train(entry, folder, options=TrainOptions(device="cpu", workers=0, threads=1), progress=SILENT).output


SUBJECT = Subject("pool", __doc__, add_arguments, pool, needs_work=True)
