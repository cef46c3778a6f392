"""What another package may add to soupkit: a merge method, a search strategy, a metric and a format of checkpoints."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from soupkit.checkpoint.formats.table import FileFormat
from soupkit.checkpoint.tensors import Extent, TensorSpec
from soupkit.evaluation.metrics import Estimate, Metric
from soupkit.merging.registry import Bounds, Paper, merge_method
from soupkit.search.candidate import ScoredSoup, Trials, uniform
from soupkit.search.strategies.table import MostTrials, Strategy, StrategyOption

PAPER = Paper(("Ada Example",), "Salt", 2026, "https://example.org/salt")


@merge_method(paper=PAPER, ingredients=(1, None))
def salted(ops: Any, ingredients: Any, base: Any, *, grains: Annotated[float, Bounds(0, 9), "added"] = 1.0) -> Any:
    """The mean of the ingredients, and some grains."""
    return ops.mean(ingredients).add_(grains)


def pairs(trials: Trials, order: Sequence[int], *, most: int) -> ScoredSoup:
    """Try the best ingredient with each of the next ones."""
    current = trials.start(uniform(order[:1]))
    for candidate in order[1 : most + 1]:
        pair = uniform([*current.members, candidate])
        current = trials.trial(current, pair, "season", candidate) or current
    return current


PAIRS = Strategy(
    "pairs",
    pairs,
    "the best ingredient with each of the next",
    options=(StrategyOption("most", int, 1, "how many are tried", low=1),),
    most_trials=lambda n, most: MostTrials(min(most, n - 1)),
    labels={"season": "seasoned with {ref}"},
)


def worst_class(hits: Any) -> Estimate:
    """Return the recall of the worst class, without an interval worth the name."""
    totals, right = np.bincount(hits.labels), np.bincount(hits.labels, weights=hits.top1)
    worst = float((right / totals).min())
    return Estimate(worst, worst, worst)


WORST_CLASS = Metric("worst_class", "classification", worst_class, "recall of the worst class", hub_name="recall")


def read_salted(path: Path) -> tuple[dict[str, TensorSpec], dict[str, str]]:
    """Read a file that begins with a line of JSON, shapes by name, and goes on with float32 in the same order."""
    with path.open("rb") as file:
        shapes = json.loads(file.readline())
        offset = file.tell()
    tensors = {}
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape, dtype=np.int64))
        tensors[name] = TensorSpec("F32", tuple(shape), (Extent(path, offset, size),))
        offset += size
    return tensors, {}


SALTED = FileFormat(
    name="salted_file", summary="shapes as a line of JSON, then float32", suffixes=(".salted",), read=read_salted
)
