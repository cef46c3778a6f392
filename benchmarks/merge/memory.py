"""Peak memory of whole merges of soupkit, with larger models and with more ingredients.

Anonymous memory is that of all processes together; what forked workers share counts once. Warm means that the inputs
are in the page cache, cold that they are not. Files are made for three ingredients at most; more are links to these.
"""

import argparse
import sys
from pathlib import Path

from benchmarks import ROOT
from benchmarks.merge.speed import WEIGHTS, cold, remove, warm
from benchmarks.tools.commands import Subject
from benchmarks.tools.machine import machine
from benchmarks.tools.measure import measure
from benchmarks.tools.synthetic import make_checkpoints

_FILES = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sizes", nargs="+", metavar="MODEL:INGREDIENTS", help="a model and how many of it")
    parser.add_argument("--dtype", default="bfloat16", help="of the ingredients")


def memory(arguments: argparse.Namespace) -> list[str]:
    """Merge each size once warm and once cold, and return the peaks of anonymous memory."""
    lines = ["## Peak memory of a uniform merge", "", machine(), ""]
    lines += [f"| {arguments.dtype} | warm, GB | cold, GB |", "|---|---|---|"]
    for size in arguments.sizes:
        model, _, count = size.rpartition(":")
        inputs = ingredients(model, int(count), arguments.dtype, arguments.work)
        cells = []
        for prepare in (warm, cold):
            out = arguments.work / "out"
            remove(out)
            prepare(inputs)
            command = [sys.executable, "-m", "soupkit", "merge", *map(str, inputs), "-o", str(out)]
            run = measure([*command, "--device", "cpu", "--json"], cwd=ROOT)
            remove(out)
            cells.append(f"{run.anonymous / 1e9:.2f}")
        lines.append(f"| {model}, {count} ingredients | {' | '.join(cells)} |")
        print(lines[-1], file=sys.stderr)
    return lines


def ingredients(model: str, count: int, dtype: str, work: Path) -> list[Path]:
    """Return `count` directories of synthetic checkpoints; those beyond the third have links to others' weights."""
    made = make_checkpoints(model, min(count, _FILES), dtype, work)
    for i in range(_FILES, count):
        source, link = made[i % _FILES], work / f"{model}-{dtype}-{i}-link"
        link.mkdir(exist_ok=True)
        for name in (WEIGHTS, "open_clip_config.json"):
            (link / name).unlink(missing_ok=True)
            (link / name).symlink_to(source / name)
        made.append(link)
    return made


SUBJECT = Subject("memory", __doc__, add_arguments, memory, needs_work=True)
