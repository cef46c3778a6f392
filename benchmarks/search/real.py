"""Seconds of a search over a real pool: the published procedure, and soupkit with each of its rules, in turns.

The published procedure is written down plainly (load, average, build, decode, evaluate in full, trial by trial).
soupkit's rule `none` shows what the evaluator saves, `exact` what stopping saves; it also runs with `sequential`, and
with `exact` where `soupkit evaluate` has scored the ingredients before. Every run has a process of its own; ratios are
taken round by round. Stopped, the same command goes on with the next run. The pool is that of `pool`. `--clock
processor` with OMP_NUM_THREADS=1 and `--workers 0` is for a machine that has other work to do too.
"""

import argparse
import json
import subprocess
import sys
from typing import Any

from benchmarks import ROOT
from benchmarks.search.one_search import WAYS, command
from benchmarks.search.pool import add_clock_arguments
from benchmarks.tools.commands import Subject
from benchmarks.tools.machine import machine, spread


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ingredients", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    add_clock_arguments(parser)


def real(arguments: argparse.Namespace) -> list[str]:
    """Run every way in turns, in processes of their own, and compare."""
    title = f"{arguments.ingredients} ingredients, {arguments.clock}"
    titles = {way: f"{way}, {title}" for way in WAYS}
    titles["published"] += f", {arguments.workers} workers"
    runs: dict[str, list[dict[str, Any]]] = {way: arguments.record.read(titles[way]) for way in WAYS}
    for i in range(arguments.rounds):
        ways = list(WAYS)[i % len(WAYS) :] + list(WAYS)[: i % len(WAYS)]
        for way in (way for way in ways if len(runs[way]) <= i):
            done = subprocess.run(
                command(arguments, way, arguments.ingredients), capture_output=True, text=True, cwd=ROOT
            )
            if done.returncode:
                sys.exit(done.stderr[-2000:])
            run = json.loads(done.stdout.splitlines()[-1])
            runs[way].append(run)
            arguments.record.add(titles[way], run)
            print(f"  round {i + 1}, {way}: {run['seconds']:.1f} s", file=sys.stderr)
    return report(arguments, {way: mine[: arguments.rounds] for way, mine in runs.items()})


def report(arguments: argparse.Namespace, runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Write what the runs of every way say."""
    import open_clip
    import torch

    first = {way: mine[0] for way, mine in runs.items()}
    exact, theirs = first["exact"], [run["seconds"] for run in runs["published"]]
    same = {way for way in WAYS if all(run["soup"] == exact["soup"] for run in runs[way])}
    lines = [
        f"## Greedy search over {arguments.ingredients} ingredients, {exact['images']:,} images",
        "",
        f"{machine()}; torch {torch.__version__}, open_clip {open_clip.__version__}; float32; {arguments.rounds} "
        f"rounds, by the {arguments.clock} clock; {torch.get_num_threads()} threads, the published procedure with "
        f"{arguments.workers} loader processes",
        "",
        f"{exact['accepted']} candidates accepted, {exact['rejected']} rejected. Soup of {len(exact['soup'])} "
        f"{100 * exact['score']:.2f} %, best ingredient {100 * exact['best']:.2f} %, uniform soup "
        f"{100 * exact['uniform']:.2f} %.",
        "",
        "| | soup | seconds | published / this | images scored | images per rejected trial |",
        "|---|---|---|---|---|---|",
    ]
    for way, label in WAYS.items():
        seconds = [run["seconds"] for run in runs[way]]
        ratio = spread([a / b for a, b in zip(theirs, seconds, strict=True)])
        shown = first[way]
        soup = "the same" if way in same else f"another of {len(shown['soup'])}, {100 * shown['score']:.2f} %"
        images = f"{shown['images_scored']:,} | {100 * shown['share']:.1f} %" if "share" in shown else " | 100 %"
        lines.append(f"| {label} | {soup} | {spread(seconds)} | {ratio} | {images} |")
    steps = {"published": "none", "none": "exact", "exact": "scored"}
    words = ["the evaluator", "stopping", "scores known before"]
    lines += ["", "| what is saved by | seconds | as a ratio |", "|---|---|---|"]
    for word, (before, after) in zip(words, steps.items(), strict=True):
        pairs = [(a["seconds"], b["seconds"]) for a, b in zip(runs[before], runs[after], strict=True)]
        lines.append(f"| {word} | {spread([a - b for a, b in pairs])} | {spread([a / b for a, b in pairs])} |")
    lines += ["", "Where the seconds go (medians of the rounds):", ""]
    for way, label in WAYS.items():
        names = sorted({name for run in runs[way] for name in run["parts"]})
        cells = [f"{n} {spread([run['parts'].get(n, 0.0) for run in runs[way]]).split()[0]}" for n in names]
        lines.append(f"- {label}: {', '.join(cells)}")
    return lines


SUBJECT = Subject("real", __doc__, add_arguments, real, keeps=True, needs_work=True)
