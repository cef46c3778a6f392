"""One training with soupkit in a process of its own: prints the seconds of every step as JSON.

python -m benchmarks.train.one_training --work DIR --batch 64 --steps 50 --workers 2
"""

import argparse
import io
import json
import tarfile
from argparse import Namespace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

from benchmarks.tools.clock import CLOCKS

MODEL = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 96, "layers": 4, "width": 128, "head_width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 128, "heads": 2, "layers": 4},
}
SHARDS, IN_A_SHARD, SIDE = 8, 500, 160


def make_shards(folder: Path) -> str:
    """Write shards of smooth, noisy JPEG files with captions of eight words, and return their pattern."""
    from open_clip import IMAGENET_CLASSNAMES

    words = sorted({word for name in IMAGENET_CLASSNAMES for word in name.lower().split()})
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(SHARDS):
        path = folder / f"{shard}.tar"
        if path.exists():
            continue
        with tarfile.open(path.with_suffix(".partial"), "w") as archive:
            for number in range(IN_A_SHARD):
                coarse = PIL.Image.fromarray(generator.integers(0, 256, (12, 12, 3), dtype=np.uint8))
                smooth = np.asarray(coarse.resize((SIDE, SIDE), PIL.Image.Resampling.BICUBIC)).astype(np.int16)
                pixels = (smooth + generator.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8)
                buffer = io.BytesIO()
                PIL.Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
                caption = " ".join(generator.choice(words, 8)).encode()
                for suffix, data in (("jpg", buffer.getvalue()), ("txt", caption)):
                    member = tarfile.TarInfo(f"{shard}{number:05d}.{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
        path.with_suffix(".partial").rename(path)
    return str(folder / f"{{0..{SHARDS - 1}}}.tar")


class Clock:
    """Progress that notes when each step ends."""

    def __init__(self, clock: str) -> None:
        self.marks: list[float] = []
        self._clock = CLOCKS[clock]

    def start(self, label: str, total: int, unit: str) -> None:
        """Forget the job before: shards are counted first."""
        self.marks.clear()

    def advance(self, n: int) -> None:
        """Note the time."""
        self.marks.append(self._clock())

    def state(self, text: str) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""


def train_once(arguments: Namespace) -> list[float]:
    """Train with soupkit in this process and return the seconds of every step."""
    from soupkit.training import TrainOptions, train

    clock = Clock(arguments.clock)
    entry: dict[str, Any] = {
        "model": MODEL, "data": {"shards": make_shards(arguments.work / "shards")}, "batch_size": arguments.batch,
        "samples": arguments.steps * arguments.batch, "lr": 5e-4, "warmup": 10 * arguments.batch, "grad_clip": 1.0,
    }  # fmt: skip
    workers = number(arguments.workers)
    # torch's own number of threads, as open_clip's trainer has, but where soupkit is to choose.
    threads = None if workers is None else torch.get_num_threads()
    options = TrainOptions(device="cpu", workers=workers, threads=threads, fresh=True)
    train(entry, arguments.work / "soupkit-run", options=options, progress=clock)
    return [b - a for a, b in pairwise(clock.marks)]


def number(workers: str) -> int | None:
    """Return a number of workers, None for `default`."""
    return None if workers == "default" else int(workers)


def main() -> None:
    """Train once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--workers", default="default", help="processes that decode, or default")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    print(json.dumps(train_once(parser.parse_args())))


if __name__ == "__main__":
    main()
