"""Peak memory of whole searches with more and more ingredients, on a tenth of the images.

The pool is that of `pool`.
"""

import argparse
import sys
from pathlib import Path

from benchmarks import ROOT
from benchmarks.search.one_search import command
from benchmarks.search.pool import add_clock_arguments, ingredients
from benchmarks.tools.commands import Subject
from benchmarks.tools.machine import machine, spread
from benchmarks.tools.measure import measure

IMAGES = 300


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ingredients", type=int, default=12, help="the most of them")
    parser.add_argument("--rounds", type=int, default=3)
    add_clock_arguments(parser)


def memory(arguments: argparse.Namespace) -> list[str]:
    """Measure the peaks."""
    counts = sorted({n for n in (4, 8, 12, arguments.ingredients) if n <= arguments.ingredients})
    peaks: dict[int, list[tuple[float, float]]] = {n: [] for n in counts}
    for _ in range(arguments.rounds):
        for n in counts:
            run = measure([*command(arguments, "exact", n), "--limit", str(IMAGES)], ROOT, key="seconds")
            peaks[n].append((run.anonymous / 1e6, run.resident / 1e6))
            print(f"  {n}: {run.anonymous / 1e6:.0f} MB", file=sys.stderr)
    nbytes = (Path(ingredients(arguments.work, 1)[0]) / "open_clip_model.safetensors").stat().st_size
    lines = [f"## Peak memory of a search; an ingredient is {nbytes / 1e6:.1f} MB", "", machine(), ""]
    lines += ["| ingredients | of them together, MB | anonymous, MB | resident, MB |", "|---|---|---|---|"]
    for n, pairs in peaks.items():
        cells = [spread([pair[i] for pair in pairs]) for i in range(2)]
        lines.append(f"| {n} | {n * nbytes / 1e6:.0f} | {' | '.join(cells)} |")
    return lines


SUBJECT = Subject("memory", __doc__, add_arguments, memory, needs_work=True)
