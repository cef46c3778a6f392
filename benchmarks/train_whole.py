"""The whole trainer beside open_clip's own: samples per second on the same shards, model, batch and precision.

Both read, decode, augment and tokenize, train with AdamW in float32 and clip the gradient: once for every number of
`--workers`, with as many threads in both, and once (`default`) with what each does where nothing is said: open_clip has
four workers then. Each runs in a process of its own, round by round; imports, the first steps and the last do not
count, and open_clip's shuffle buffer is 500 samples instead of 5,000, so that it is full before. open_clip's trainer
has an environment of its own, with the same torch. The processor's clock knows nothing of worker processes: `--workers
0` goes with it.
"""

import io
import json
import os
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
# Steps that do not count: those in which workers start and batches pile up, and those for which everything is decoded:
# a worker holds two batches, open_clip has four by default and soupkit as many as cores, up to sixteen.
FIRST = LAST = 2 * max(5, min(16, len(os.sched_getaffinity(0))))
Workers = int | None
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
    workers = number(arguments.one_workers)
    # torch's own number of threads, as open_clip's trainer has, but where soupkit is to choose.
    threads = None if workers is None else torch.get_num_threads()
    options = TrainOptions(device="cpu", workers=workers, threads=threads, fresh=True)
    train(entry, arguments.work / "soupkit-run", options=options, progress=clock)
    return [b - a for a, b in pairwise(clock.marks)]


def number(workers: str) -> Workers:
    """Return a number of workers, None for `default`."""
    return None if workers == "default" else int(workers)


def whole(arguments: Namespace) -> list[str]:
    """Compare the two trainers, round by round."""
    work: Path = arguments.work
    if arguments.steps < FIRST + LAST + 10:
        sys.exit(f"--steps should be {FIRST + LAST + 10} at least here: {FIRST + LAST} do not count")
    shards = make_shards(work / "shards")
    packages = [f"open_clip_torch[training]=={version('open_clip_torch')}", f"torch=={version('torch').split('+')[0]}"]
    python = environment(work / "peers-train", packages)
    (work / "configs").mkdir(exist_ok=True)
    (work / "configs" / "soupkit-benchmark.json").write_text(json.dumps(MODEL))
    batch, steps = arguments.batch, arguments.steps
    rows = []
    for workers in arguments.workers:
        rates: dict[str, list[float]] = {"open_clip": [], "soupkit": []}
        for i in range(arguments.rounds):
            for name in list(rates) if i % 2 == 0 else list(rates)[::-1]:
                command = _mine(arguments, workers)
                if name == "open_clip":
                    command = _theirs(arguments, python, shards, number(workers))
                done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
                if done.returncode:
                    sys.exit(done.stderr[-2000:])
                seconds = json.loads(done.stdout.splitlines()[-1])[FIRST:-LAST]
                rates[name].append(batch * len(seconds) / sum(seconds))
                print(f"  {workers}, round {i + 1}, {name}: {rates[name][-1]:.1f} samples/s", file=sys.stderr)
        ratios = [a / b for a, b in zip(rates["soupkit"], rates["open_clip"], strict=True)]
        label = "each tool's defaults" if workers == "default" else workers
        rows.append(f"| {label} | {spread(rates['open_clip'])} | {spread(rates['soupkit'])} | {spread(ratios)} |")
    named = versions(python, ["open_clip_torch", "torch"])
    return [
        f"## The whole trainer: batch {batch:,}, float32",
        "",
        f"{machine()}; open_clip's trainer {named['open_clip_torch']} on torch {named['torch']}, soupkit on "
        f"{torch.__version__}; {torch.get_num_threads()} threads, by the {arguments.clock} clock; {arguments.rounds} "
        f"rounds of {steps} steps. A step lasts from one batch to the next, whatever happens between; the first "
        f"{FIRST} and the last {LAST}, while batches pile up or run out, do not count. open_clip's shuffle buffer is "
        "500 samples, full before the first step. Ratios are taken round by round.",
        "",
        f"Model {MODEL}; {SHARDS} shards of {IN_A_SHARD} JPEG files of {SIDE} x {SIDE} pixels.",
        "",
        "| worker processes | open_clip's trainer, samples/s | soupkit, samples/s | soupkit / open_clip |",
        "|---|---|---|---|",
        *rows,
    ]


def _mine(arguments: Namespace, workers: str) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.train", "trainer", "--one", "soupkit", "--one-workers", workers]
    command += ["--work", str(arguments.work), "--batch", str(arguments.batch), "--steps", str(arguments.steps)]
    return [*command, "--clock", arguments.clock]


def _theirs(arguments: Namespace, python: Path, shards: str, workers: Workers) -> list[str]:
    work, batch = arguments.work, arguments.batch
    command = [str(python), str(ROOT / "benchmarks" / "train_peer.py"), arguments.clock, str(work / "configs")]
    command += ["--model", "soupkit-benchmark", "--train-data", shards, "--dataset-type", "webdataset"]
    command += ["--train-num-samples", str(arguments.steps * batch), "--batch-size", str(batch)]
    command += ["--epochs", "1", "--precision", "fp32", "--lr", "5e-4", "--warmup", "10", "--grad-clip-norm", "1.0"]
    command += ["--logs", str(work / "logs"), "--name", f"{time.time_ns()}"]
    return command if workers is None else [*command, "--workers", str(workers)]
