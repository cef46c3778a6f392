"""The whole trainer beside open_clip's own: samples per second on the same shards, model, batch and precision.

Both read, decode, augment and tokenize in as many worker processes, train with AdamW in float32 on as many threads, and
clip the gradient. Each runs in a process of its own, round by round; imports, the first steps and the last do not
count. open_clip's trainer has an environment of its own, with the same torch. The processor's clock knows nothing of
worker processes: `--workers 0` goes with it.
"""

import io
import json
import subprocess
import sys
import tarfile
import time
from argparse import Namespace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

from benchmarks.machine import machine, spread
from benchmarks.peers import environment, versions

ROOT = Path(__file__).parents[1]
MODEL = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 96, "layers": 4, "width": 128, "head_width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 128, "heads": 2, "layers": 4},
}
SHARDS, IN_A_SHARD, SIDE = 8, 500, 160
# Steps that do not count: those in which workers start and buffers fill, and those for which everything is decoded.
FIRST = LAST = 5
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


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

    def note(self, text: str) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""


def one(arguments: Namespace) -> list[float]:
    """Train with soupkit in this process and return the seconds of every step."""
    from soupkit.training import TrainOptions, train

    clock = Clock(arguments.clock)
    entry: dict[str, Any] = {
        "model": MODEL, "data": {"shards": make_shards(arguments.work / "shards")}, "batch_size": arguments.batch,
        "samples": arguments.steps * arguments.batch, "lr": 5e-4, "warmup": 10 * arguments.batch, "grad_clip": 1.0,
    }  # fmt: skip
    # torch's own number of threads, as open_clip's trainer has: soupkit would leave the workers' cores to them.
    options = TrainOptions(device="cpu", workers=arguments.workers, threads=torch.get_num_threads(), fresh=True)
    train(entry, arguments.work / "soupkit-run", options=options, progress=clock)
    return [b - a for a, b in pairwise(clock.marks)]


def whole(arguments: Namespace) -> list[str]:
    """Compare the two trainers, round by round."""
    work: Path = arguments.work
    shards = make_shards(work / "shards")
    packages = [f"open_clip_torch[training]=={version('open_clip_torch')}", f"torch=={version('torch').split('+')[0]}"]
    python = environment(work / "peers-train", packages)
    (work / "configs").mkdir(exist_ok=True)
    (work / "configs" / "soupkit-benchmark.json").write_text(json.dumps(MODEL))
    batch, steps, workers = arguments.batch, arguments.steps, arguments.workers
    mine = [sys.executable, "-m", "benchmarks.train", "trainer", "--one", "soupkit", "--work", str(work)]
    mine += ["--batch", str(batch), "--steps", str(steps), "--workers", str(workers), "--clock", arguments.clock]
    theirs = [str(python), str(ROOT / "benchmarks" / "train_peer.py"), arguments.clock, str(work / "configs")]
    theirs += ["--model", "soupkit-benchmark", "--train-data", shards, "--dataset-type", "webdataset"]
    theirs += ["--train-num-samples", str(steps * batch), "--batch-size", str(batch), "--workers", str(workers)]
    theirs += ["--epochs", "1", "--precision", "fp32", "--lr", "5e-4", "--warmup", "10", "--grad-clip-norm", "1.0"]
    theirs += ["--logs", str(work / "logs")]
    rates: dict[str, list[float]] = {"open_clip": [], "soupkit": []}
    for i in range(arguments.rounds):
        order = list(rates) if i % 2 == 0 else list(rates)[::-1]
        for name in order:
            command = mine if name == "soupkit" else [*theirs, "--name", f"{time.time_ns()}"]
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
            if done.returncode:
                sys.exit(done.stderr[-2000:])
            seconds = json.loads(done.stdout.splitlines()[-1])[FIRST:-LAST]
            rates[name].append(batch * len(seconds) / sum(seconds))
            print(f"  round {i + 1}, {name}: {rates[name][-1]:.1f} samples/s", file=sys.stderr)
    ratios = [a / b for a, b in zip(rates["soupkit"], rates["open_clip"], strict=True)]
    named = versions(python, ["open_clip_torch", "torch"])
    return [
        f"## The whole trainer: batch {batch:,}, float32, {workers} worker{'' if workers == 1 else 's'}",
        "",
        f"{machine()}; open_clip's trainer {named['open_clip_torch']} on torch {named['torch']}, soupkit on "
        f"{torch.__version__}; {torch.get_num_threads()} threads, by the {arguments.clock} clock; {arguments.rounds} "
        f"rounds of {steps} steps, the first {FIRST} and the last {LAST} not counted",
        "",
        f"Model {MODEL}; {SHARDS} shards of {IN_A_SHARD} JPEG files of {SIDE} x {SIDE} pixels.",
        "",
        "| | samples/s | soupkit / open_clip |",
        "|---|---|---|",
        f"| open_clip's trainer | {spread(rates['open_clip'])} | |",
        f"| soupkit | {spread(rates['soupkit'])} | {spread(ratios)} |",
    ]
