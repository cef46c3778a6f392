"""Whole commands of this version and of an earlier one, in turns: merge, evaluate, search and train.

Each command is a process of its own with one thread, from the interpreter's start to its end; the two versions go first
by turns. The processor's seconds, user and system, of the process and all its children hardly depend on what else the
machine does; the wall's do. Ratios are taken round by round. Stopped, the same command goes on with the next round.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import ROOT
from benchmarks.evaluate.data import config_of, make_images, make_models
from benchmarks.search.alike import make_alike
from benchmarks.tools.commands import Subject
from benchmarks.tools.machine import machine, spread
from benchmarks.tools.rounds import Round, column, ratios, run_rounds
from benchmarks.tools.synthetic import make_checkpoints


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--before", type=Path, required=True, help="a checkout of the earlier version")
    parser.add_argument("--of", nargs="+", choices=list(WORK), default=list(WORK), help="the commands to compare")
    parser.add_argument("--model", default="ViT-B-32", help="of merge: any open_clip architecture")
    parser.add_argument("--rounds", type=int, default=10)


def merge(arguments: argparse.Namespace) -> list[str]:
    """Three checkpoints in bfloat16, in the page cache."""
    inputs = make_checkpoints(arguments.model, 3, "bfloat16", arguments.work)
    return ["merge", *map(str, inputs), "--device", "cpu"]


def evaluate(arguments: argparse.Namespace) -> list[str]:
    """Three small models on 200 JPEG files, without a cache."""
    models = make_models(arguments.work / "models-64-3", 3, config_of(64, 3))
    task = make_images(arguments.work / "jpeg-200", 200)
    return ["evaluate", *map(str, models), "--task", str(task), "--device", "cpu", "--no-cache"]


def search(arguments: argparse.Namespace) -> list[str]:
    """Four small models that are nearly alike, every trial a tie, then six mixtures; on 200 of the digits."""
    folder = arguments.work / "alike"
    if not folder.exists():
        make_alike(folder, 4)
    refs = [str(path) for path in sorted(folder.iterdir())]
    options = ["--task", "digits", "--limit", "200", "--device", "cpu", "--no-cache", "--accept", "ge"]
    return ["greedy-search", *refs, *options, "--strategy", "weights", "--budget", "6"]


def train(arguments: argparse.Namespace) -> list[str]:
    """16 steps of the demo's stage 1."""
    size = ["--set", "samples=8192", "--set", "warmup=512"]
    return [
        "train",
        str(ROOT / "recipes" / "digits.yaml"),
        "--run",
        "stage1",
        *size,
        "--device",
        "cpu",
        "--workers",
        "0",
    ]


WORK: dict[str, Callable[[argparse.Namespace], list[str]]] = {
    "merge": merge,
    "evaluate": evaluate,
    "search": search,
    "train": train,
}


def compare(arguments: argparse.Namespace) -> list[str]:
    """Run each command of both versions in turns, and return the ratios."""
    versions = {"before": arguments.before.resolve(), "now": ROOT}
    named = " against ".join(commit(path) for path in reversed(versions.values()))
    lines = [
        f"## The same work by two versions: {named}",
        "",
        f"{machine()}; one thread; {arguments.rounds} rounds",
        "",
    ]
    lines += ["| | processor's s before | now | now / before | wall's s, now / before |", "|---|---|---|---|---|"]
    for name in arguments.of:
        options = WORK[name](arguments)

        def one_round(number: int, options: list[str] = options) -> Round:
            figures: Round = {}
            for version, path in list(versions.items())[:: 1 if number % 2 else -1]:
                wall, processor = measure(path, options, arguments.work / "output")
                figures |= {version: processor, f"{version}, wall": wall}
            return figures

        for path in versions.values():  # what is read or compiled for the first time counts for neither
            measure(path, options, arguments.work / "output")
        rounds = run_rounds(f"{name}, {named}", arguments.rounds, one_round, arguments.record)
        cells = [spread(column(rounds, version)) for version in versions]
        cells += [spread(ratios(rounds, "now", "before")), spread(ratios(rounds, "now, wall", "before, wall"))]
        lines.append(f"| `{options[0]}` | {' | '.join(cells)} |")
        print(lines[-1], file=sys.stderr)
    return lines


def measure(checkout: Path, options: list[str], output: Path) -> tuple[float, float]:
    """Run soupkit as it is in `checkout`; return the wall's seconds, and the processor's of all its processes."""
    shutil.rmtree(output, ignore_errors=True)
    target = [] if options[0] == "evaluate" else ["-o", str(output)]
    variables = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "soupkit", *options, *target, "--json"]
    started = time.perf_counter()
    process = subprocess.Popen(command, env=variables, cwd=checkout, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} in {checkout}:\n{said.decode()[-2000:]}")
    shutil.rmtree(output, ignore_errors=True)
    return wall, usage.ru_utime + usage.ru_stime


def commit(checkout: Path) -> str:
    """Name the version of a checkout by its commit, or by its path where there is none."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else str(checkout)


SUBJECT = Subject("ratios", __doc__, add_arguments, compare, keeps=True, needs_work=True)
