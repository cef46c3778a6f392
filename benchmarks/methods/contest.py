"""Every merge method on one pool: with its published defaults, and with the parameters that are best on val."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from benchmarks.methods.pools import Pool
from benchmarks.methods.statistics import ALPHA, Statistics
from benchmarks.methods.tower import State
from soupkit.merging import RunOptions, merge
from soupkit.merging.registry import METHODS, MergeMethod
from soupkit.scratch import ScratchDirectory
from soupkit.search.strategies.methods import grid

TRIALS = 3  # parameters that are tried of a method, its defaults among them
_OPTIONS = RunOptions(device="cpu", threads=1)


@dataclass(frozen=True, slots=True)
class Entrant:
    """A method under its name in the table, with settings beside its defaults, and the parameters it is tried with."""

    name: str
    method: MergeMethod
    given: Mapping[str, Any] = field(default_factory=dict)
    tried: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """Accuracies of a method's soup on val and test: with its defaults, and with the parameters `chosen` on val."""

    val: float
    test: float
    chosen: dict[str, Any]
    chosen_val: float
    chosen_test: float


def entrants() -> Iterator[Entrant]:
    """Yield the methods that have a default for each parameter but files of statistics, and the layer rule on top of
    task arithmetic.

    The parameters are those that a search with `--strategy methods` tries; of regmean_plusplus, likewise, the factor
    that its statistics are collected with.
    """
    for method in METHODS.values():
        if method.name == "regmean_plusplus":
            yield Entrant(method.name, method, {}, [{"alpha": value} for value in (ALPHA / 2, 1.0)])
        elif all(p.default is not None or p.optional or p.files for p in method.parameters.values()):
            yield Entrant(method.name, method, {}, list(islice(grid(method), TRIALS - 1)))
    plain = METHODS.find("task_arithmetic")
    slopes = [{"lines": slope, "scale": scale} for slope, scale in ((0.25, 0.8), (1.0, 0.2))]
    yield Entrant("task_arithmetic, lines", plain, {"lines": 0.5}, slopes)


def contest(pool: Pool) -> dict[str, Any]:
    """Return the accuracies of the pool's own models, and of each method's soups, as JSON holds them."""
    vals = [pool.score(state, "val") for state in pool.ingredients]
    tests = [pool.predicted(state, "test") for state in pool.ingredients]
    order = sorted(range(len(vals)), key=lambda i: -vals[i])
    ensemble = [torch.stack(each).mean(0) for each in zip(*tests, strict=True)]
    own = [pool.accuracy(predicted, "test") for predicted in tests]
    document: dict[str, Any] = {
        "base": pool.score(pool.base, "test"),
        "best": own[order[0]],
        "mean": sum(own) / len(own),
        "ensemble": pool.accuracy(ensemble, "test"),
        "methods": {},
    }
    if len(pool.tasks) > 1:
        alone = [tests[i][i] for i in range(len(pool.tasks))]
        document["alone"] = pool.accuracy(alone, "test")
    with ScratchDirectory() as folder:
        statistics = Statistics(pool, Path(folder))
        outcomes = {entrant.name: _outcome(pool, entrant, order, statistics) for entrant in entrants()}
    for name, outcome in outcomes.items():
        document["methods"][name] = [getattr(outcome, field) for field in Outcome.__slots__]
    return document


def _outcome(pool: Pool, entrant: Entrant, order: Sequence[int], statistics: Statistics) -> Outcome:
    plain = _merged(pool, entrant, entrant.given, order, statistics)
    val, test = pool.score(plain, "val"), pool.score(plain, "test")
    best, best_val = dict(entrant.given), val
    for parameters in entrant.tried:
        if (score := pool.score(_merged(pool, entrant, parameters, order, statistics), "val")) > best_val:
            best, best_val = dict(parameters), score
    chosen_test = test
    if best != entrant.given:
        chosen_test = pool.score(_merged(pool, entrant, best, order, statistics), "test")
    return Outcome(val, test, best, best_val, chosen_test)


def _merged(
    pool: Pool, entrant: Entrant, parameters: Mapping[str, Any], order: Sequence[int], statistics: Statistics
) -> State:
    """Merge the pool; by a method that takes fewer ingredients, those that are best on val, in their order."""
    method, most = entrant.method, entrant.method.ingredients[1]
    members = sorted(order[:most])
    given = dict(parameters)
    for kind in method.files.values():
        alpha = given.pop("alpha", ALPHA) if kind == "merged_gram" else ALPHA
        given["statistics"] = statistics.files(kind, alpha)
    return merge(
        [pool.ingredients[i] for i in members],
        base=pool.base if method.base != "none" else None,
        method=method.name,
        parameters=given,
        options=_OPTIONS,
    )
