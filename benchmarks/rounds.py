"""Rounds of a benchmark that are done, on disk, so that a benchmark that was stopped goes on with the next one."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Round = dict[str, float]


def run_rounds(
    title: str, count: int, work: Callable[[int], Round], place: Path | None, disturbance: float = 1.0
) -> list[Round]:
    """Do `work`, which is told how many came before, until there are `count` rounds of the benchmark called `title`,
    counting those that the file `place` holds (None: nothing is kept), and return their figures, oldest first.

    A round during which other processes took a larger share of the processor's time than `disturbance` does not count.
    The figure `others` is that share.
    """
    done = [entry["figures"] for entry in _read(place) if entry["title"] == title][:count]
    while len(done) < count:
        before = _processor_seconds()
        figures = work(len(done))
        mine, everyone = (now - then for now, then in zip(_processor_seconds(), before, strict=True))
        figures["others"] = max(0.0, 1 - mine / everyone) if everyone else 0.0
        counts = figures["others"] <= disturbance
        said = ", ".join(f"{name} {value:.3g}" for name, value in figures.items())
        print(f"  round {len(done) + 1}{'' if counts else ', disturbed'}: {said}", file=sys.stderr)
        if not counts:
            continue
        done.append(figures)
        if place is not None:
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("a") as file:
                file.write(json.dumps({"title": title, "figures": figures}) + "\n")
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


def _read(place: Path | None) -> list[dict[str, Any]]:
    if place is None or not place.exists():
        return []
    return [json.loads(line) for line in place.read_text().splitlines()]
