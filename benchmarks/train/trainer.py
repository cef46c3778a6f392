"""Samples per second of the whole trainer beside open_clip's own, on the same shards, model, batch and precision.

Both read, decode, augment and tokenize, train with AdamW in float32 and clip the gradient: once for every number of
`--workers`, with as many threads in both, and once (`default`) with what each does where nothing is said: open_clip has
four workers then. Each runs in a process of its own, round by round; imports, the first steps and the last do not
count, and open_clip's shuffle buffer is 500 samples instead of 5,000, so that it is full before. open_clip's trainer
has an environment of its own, with the same torch. The processor's clock knows nothing of worker processes: `--workers
0` goes with it.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks import ROOT
from benchmarks.tools.clock import CLOCKS
from benchmarks.tools.commands import Subject
from benchmarks.tools.machine import machine, spread
from benchmarks.tools.peers import environment, versions
from benchmarks.train.one_training import IN_A_SHARD, MODEL, SHARDS, SIDE, make_shards, number

# Steps that do not count: those in which workers start and batches pile up, and those for which everything is decoded:
# a worker holds two batches, open_clip has four by default and soupkit as many as cores, up to sixteen.
FIRST = LAST = 2 * max(5, min(16, len(os.sched_getaffinity(0))))
_PEER_SCRIPT = Path(__file__).with_name("open_clip_peer.py")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--workers", nargs="+", default=["1", "2", "default"], help="processes that decode, or default; a row each"
    )
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")


def trainer(arguments: argparse.Namespace) -> list[str]:
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


def _mine(arguments: argparse.Namespace, workers: str) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.train.one_training", "--workers", workers]
    command += ["--work", str(arguments.work), "--batch", str(arguments.batch), "--steps", str(arguments.steps)]
    return [*command, "--clock", arguments.clock]


def _theirs(arguments: argparse.Namespace, python: Path, shards: str, workers: int | None) -> list[str]:
    work, batch = arguments.work, arguments.batch
    command = [str(python), str(_PEER_SCRIPT), arguments.clock, str(work / "configs")]
    command += ["--model", "soupkit-benchmark", "--train-data", shards, "--dataset-type", "webdataset"]
    command += ["--train-num-samples", str(arguments.steps * batch), "--batch-size", str(batch)]
    command += ["--epochs", "1", "--precision", "fp32", "--lr", "5e-4", "--warmup", "10", "--grad-clip-norm", "1.0"]
    command += ["--logs", str(work / "logs"), "--name", f"{time.time_ns()}"]
    return command if workers is None else [*command, "--workers", str(workers)]


SUBJECT = Subject("trainer", __doc__, add_arguments, trainer, needs_work=True)
