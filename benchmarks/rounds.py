"""Rounds of a benchmark that are done, on disk, so that a benchmark that was stopped goes on with the next one."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Round = dict[str, float]


def run_rounds(title: str, count: int, work: Callable[[int], Round], place: Path | None) -> list[Round]:
    """Do `work`, which is told how many came before, until there are `count` rounds of the benchmark called `title`,
    counting those that the file `place` holds (None: nothing is kept), and return their figures, oldest first."""
    done = [entry["figures"] for entry in _read(place) if entry["title"] == title][:count]
    while len(done) < count:
        done.append(work(len(done)))
        figures = ", ".join(f"{name} {value:.3g}" for name, value in done[-1].items())
        print(f"  round {len(done)}: {figures}", file=sys.stderr)
        if place is not None:
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("a") as file:
                file.write(json.dumps({"title": title, "figures": done[-1]}) + "\n")
    return done


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
