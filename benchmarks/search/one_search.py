"""One search in a process of its own: prints its seconds, their parts, the soup and the images as JSON.

    python -m benchmarks.search.one_search --way exact --work DIR

Imports count for none of the ways; soupkit's searches also score the uniform soup and write, check and describe the
soup.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.search.pool import add_clock_arguments, ingredients
from benchmarks.tools.clock import CLOCKS

WAYS = {
    "published": "the published procedure",
    "none": "soupkit, `none`",
    "exact": "soupkit, `exact`",
    "scored": "soupkit, `exact`, ingredients scored before",
    "sequential": "soupkit, `sequential`",
}


def command(arguments: argparse.Namespace, way: str, count: int) -> list[str]:
    """Return the command line of one search among the first `count` ingredients."""
    line = [sys.executable, "-m", "benchmarks.search.one_search", "--way", way, "--work", str(arguments.work)]
    return [*line, "--ingredients", str(count), "--workers", str(arguments.workers), "--clock", arguments.clock]


def main() -> None:
    """Search once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--way", choices=list(WAYS), default="exact")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--ingredients", type=int, default=12)
    parser.add_argument("--limit", type=int, help="images")
    add_clock_arguments(parser)
    arguments = parser.parse_args()
    refs, task = ingredients(arguments.work, arguments.ingredients), str(arguments.work / "fashion-mnist")
    now = CLOCKS[arguments.clock]
    if arguments.way == "published":
        print(json.dumps(published(refs, task, arguments.workers, now)))
    else:
        print(json.dumps(searched(refs, task, arguments.way, now, arguments.limit)))


@dataclass
class Phases:
    """A soupkit Progress that counts the seconds of each kind of work, by the clock `now`."""

    now: Callable[[], float]
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _kind: str = ""
    _since: float = 0.0

    def start(self, label: str, total: int, unit: str) -> None:
        """Begin."""
        words = label.split()
        kinds = {"scoring": "ingredients", "trial": "trials", "soup": "uniform soup", "decoding": "decoding"}
        self._kind, self._since = kinds.get(words[0], "rest"), self.now()

    def advance(self, n: int) -> None:
        """Do nothing."""

    def state(self, text: str) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Count what was begun."""
        self.seconds[self._kind] += self.now() - self._since


def searched(
    refs: list[str], task: str, way: str, now: Callable[[], float], limit: int | None = None
) -> dict[str, Any]:
    """Search with soupkit and a cache that is empty at the beginning; where `way` is "scored", it holds the pixels and
    the ingredients' scores."""
    # All that a search imports on its way is imported before the clock runs, as it is for the published procedure.
    import matplotlib.pyplot  # noqa: F401
    import open_clip  # noqa: F401
    import torchvision  # noqa: F401

    import soupkit
    from soupkit.evaluation import EvaluationOptions
    from soupkit.search import SearchOptions, greedy_search

    phases = Phases(now)
    with TemporaryDirectory() as directory:
        evaluation = EvaluationOptions(cache=Path(directory) / "cache", device="cpu", limit=limit)
        if way == "scored":
            soupkit.evaluate(refs, [f"{task}:val"], options=evaluation)
        started = now()
        document = greedy_search(
            refs, Path(directory) / "soup", tasks=[task], evaluation=evaluation, progress=phases,
            search=SearchOptions(stopping="exact" if way == "scored" else way),
        ).document.to_dict()  # fmt: skip
        seconds = now() - started
    trials = document["decisions"][1:]
    rejected = [d["images"] for d in trials if d["decision"] == "rejected"]
    images = document["score"]["n"]
    return {
        "seconds": seconds,
        "parts": {**phases.seconds, "rest": seconds - sum(v for k, v in phases.seconds.items() if k != "rest")},
        "soup": document["selected"],
        "score": document["score"]["value"],
        "best": document["best_ingredient"]["value"],
        "uniform": document["uniform"]["value"],
        "accepted": len(trials) - len(rejected),
        "rejected": len(rejected),
        "images": images,
        "share": sum(rejected) / (images * len(rejected)) if rejected else 0.0,
        "images_scored": document["images_scored"],
        "images_full": document["images_full"],
    }


def published(refs: list[str], task: str, workers: int, now: Callable[[], float]) -> dict[str, Any]:
    """Search as the published scripts do."""
    from benchmarks.search.published import Clock, PublishedSearch
    from soupkit.evaluation import open_tasks

    clock = Clock(now)
    started = now()
    (opened,) = open_tasks([task], split="val")
    soup, hits = PublishedSearch(refs[0], opened, workers, clock).greedy(refs)
    seconds = now() - started
    parts = {**clock.seconds, "rest": seconds - sum(clock.seconds.values())}
    return {"seconds": seconds, "parts": parts, "soup": soup, "score": hits / len(opened.dataset)}


if __name__ == "__main__":
    main()
