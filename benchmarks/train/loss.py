"""Time and memory of the contrastive loss and its gradient for a whole batch, against open_clip's `ClipLoss`.

Each runs with autograd or in tiles in a process of its own: seconds, the processor's seconds, and the peak of resident
memory above what the process held with the features made. The floor is the time of the four matrix products alone.
"""

import argparse
import json
import subprocess
import sys

import torch

from benchmarks import ROOT
from benchmarks.tools.commands import Subject
from benchmarks.tools.machine import machine, spread


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=int, default=16384)
    parser.add_argument("--width", type=int, default=1024, help="of the features")
    parser.add_argument("--rounds", type=int, default=3)


def loss(arguments: argparse.Namespace) -> list[str]:
    """Compare time and memory of the loss of one batch."""
    runs: dict[str, list[dict[str, float]]] = {"open_clip": [], "soupkit": []}
    size = [str(arguments.batch), str(arguments.width)]
    for i in range(arguments.rounds):
        for name, mine in runs.items():
            command = [sys.executable, "-m", "benchmarks.train.one_loss", name, *size]
            done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
            mine.append(json.loads(done.stdout.splitlines()[-1]))
            print(f"  round {i + 1}, {name}: {mine[-1]}", file=sys.stderr)
    theirs, ours = runs["open_clip"], runs["soupkit"]
    lines = [
        f"## Contrastive loss, value and gradient: batch {arguments.batch:,}, width {arguments.width:,}, float32, CPU",
        "",
        f"{machine()}; torch {torch.__version__}; {arguments.rounds} rounds",
        "",
        "| | seconds | of open_clip's | processor's seconds | of open_clip's | peak, GB | of open_clip's |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, label in (("open_clip", "open_clip `ClipLoss`, autograd"), ("soupkit", "soupkit, in tiles")):
        cells = []
        for key, unit in (("seconds", 1), ("processor", 1), ("peak", 1e9)):
            ratios = [run[key] / other[key] for run, other in zip(runs[name], theirs, strict=True)]
            cells += [spread([run[key] / unit for run in runs[name]]), spread(ratios)]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    lines.append(f"| floor: four products of N x N x D | {spread([run['floor'] for run in ours])} | | | | | |")
    difference = max(abs(a["loss"] - b["loss"]) for a, b in zip(ours, theirs, strict=True))
    return [*lines, "", f"Largest difference between the two losses: {difference:.1e}."]


SUBJECT = Subject("loss", __doc__, add_arguments, loss)
