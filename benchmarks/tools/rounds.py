"""Rounds of a benchmark that are done, on disk, so that a benchmark that was stopped goes on with the next one."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Round = dict[str, float]


class Record:
    """Figures that were measured, a line each, under the title of what they are of; without a path nothing is kept."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def read(self, title: str) -> list[Any]:
        """Return what was kept under `title`, oldest first."""
        if self._path is None or not self._path.exists():
            return []
        entries = map(json.loads, self._path.read_text().splitlines())
        return [entry["figures"] for entry in entries if entry["title"] == title]

    def add(self, title: str, figures: Any) -> None:
        """Append figures (anything that JSON holds)."""
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write(json.dumps({"title": title, "figures": figures}) + "\n")

    def remove(self) -> None:
        """Remove the file: the benchmark is over."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def add_round_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how many rounds count, and which do not."""
    parser.add_argument("--rounds", type=int, default=3)
    add_disturbance(parser)


def add_disturbance(parser: argparse.ArgumentParser) -> None:
    """Add which rounds do not count."""
    parser.add_argument(
        "--disturbance",
        type=float,
        default=1.0,
        help="rounds of which other processes took a larger share are measured again; 0.05 is little",
    )


def run_rounds(
    title: str, count: int, work: Callable[[int], Round], record: Record, disturbance: float = 1.0
) -> list[Round]:
    """Do `work`, which is told how many came before, until there are `count` rounds of the benchmark called `title`,
    counting those in `record`, and return their figures, oldest first.

    A round during which other processes took a larger share of the processor's time than `disturbance` does not count.
    The figure `others` is that share.
    """
    done: list[Round] = record.read(title)[:count]
    while len(done) < count:
        before = _processor_seconds()
        figures = work(len(done))
        mine, everyone = (now - then for now, then in zip(_processor_seconds(), before, strict=True))
        figures["others"] = max(0.0, 1 - mine / everyone) if everyone else 0.0
        counts = figures["others"] <= disturbance
        said = ", ".join(f"{name} {value:.3g}" for name, value in figures.items())
        print(f"  round {len(done) + 1}{'' if counts else ', disturbed'}: {said}", file=sys.stderr)
        if counts:
            done.append(figures)
            record.add(title, figures)
    return done


def _processor_seconds() -> tuple[float, float]:
    """Return what this process and its children took so far, and what all processes took."""
    times = os.times()
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    busy = sum(ticks) - ticks[3] - ticks[4]  # all but idle and waiting for a disk
    return sum(times[:4]), busy / os.sysconf("SC_CLK_TCK")


def column(rounds: list[Round], name: str) -> list[float]:
    """Return one figure of all rounds."""
    return [r[name] for r in rounds]


def ratios(rounds: list[Round], above: str, below: str) -> list[float]:
    """Return the ratio of two figures, round by round, so that it holds when the machine's speed drifts."""
    return [r[above] / r[below] for r in rounds]
