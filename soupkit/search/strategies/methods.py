"""Merge methods tried one after the other, each with a grid of its parameters, and the best one tuned by CMA-ES.

Each method comes first with its published defaults, then, those that did best first, with each of its numbers at half
and twice the default, then with what CMA-ES asks for over all numbers of the best method at once.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from soupkit.errors import UsageError
from soupkit.merging.declarations import Bounds, Parameter
from soupkit.merging.parameters import resolve
from soupkit.merging.registry import LAYER_RULE, METHODS, MergeMethod
from soupkit.search.candidate import Proxy, ScoredSoup, SearchInputs, Soup, Trials, by_method, uniform
from soupkit.search.strategies.cma_es import CMA_OPTIONS
from soupkit.search.strategies.greedy import guessed_members
from soupkit.search.strategies.table import BUDGET, PROXY, STRATEGIES, MostTrials, Strategy, StrategyOption

_FACTORS = (0.5, 2.0)  # of a default, for the values beside it
_SMALL = {"epsilon", "tolerance", "iterations", "steps", "rate", "seed", "floor"}  # how a method computes, not what
_FIRST_STEP = 0.2  # of CMA-ES, in a box whose sides are 1

Given = Mapping[str, float | int | bool | str]


class Attempt:
    """What came of one method: its best soup so far, and the soups that were tried. Its defaults are always scored to
    the end; of other parameters those count that were accepted, so that no stopping rule changes what is tried."""

    def __init__(self, method: MergeMethod) -> None:
        self.method = method
        self.best: ScoredSoup | None = None
        self.tried: set[Soup] = set()

    @property
    def worth(self) -> float:
        """What its best soup is worth, minus infinity before there is one."""
        return self.best.worth if self.best is not None else -math.inf


def try_methods(
    trials: Trials, order: Sequence[int], *, budget: int = BUDGET.default, methods: Sequence[str] = (), tune: int = 0,
    proxy: float = PROXY.default,
) -> ScoredSoup:  # fmt: skip
    """Try merges of all ingredients, `budget` at most, by `methods` or, without any, by all that apply; then `tune`
    more by CMA-ES. With `proxy` they merge the ingredients that a greedy search among guesses chooses: averaged logits
    tell ingredients apart, not methods.

    It starts from the best ingredient; a merge is kept if it scores higher than what is kept so far.
    """
    base = trials.inputs.base is not None
    best = trials.start(uniform(order[:1]))
    members = sorted(order)  # the order in which they were given: for slerp it counts
    if trials.proxy is not None:
        members = _guessed_to_help(order, trials.proxy, _chosen(methods, trials.inputs))
        trials.proxy.prune(len(order) - len(members))
    attempts = [Attempt(method) for method in _chosen(methods, trials.inputs)][:budget]
    trials.expect(budget + tune)
    for one in attempts:
        soup = _merge(one, members, {}, base=base)
        one.tried.add(soup)
        one.best = trials.measure(best, soup, "merge")
        best = one.best if one.best.worth > best.worth else best
    left = budget - len(attempts)
    for one in sorted(attempts, key=_by_worth):
        for given in grid(one.method):
            soup = _merge(one, members, given, base=base)
            if left > 0 and soup not in one.tried:
                left -= 1
                one.tried.add(soup)
                if (better := trials.trial(best, soup, "merge", None, strict=True)) is not None:
                    best = one.best = better
    if tune:
        best = _tuned(trials, best, members, min(attempts, key=_by_worth), tune, base=base)
    trials.state(methods=[_said(trials, one) for one in attempts])
    return best


def _guessed_to_help(order: Sequence[int], guesses: Proxy, methods: Sequence[MergeMethod]) -> list[int]:
    """Return the members that guesses choose, and the best of the others where a method needs more of them."""
    chosen = guessed_members(order, guesses)
    least = max(method.ingredients[0] for method in methods)
    others = [m for m in order if m not in chosen]
    return sorted([*chosen, *others[: max(0, least - len(chosen))]])


def _by_worth(one: Attempt) -> float:
    return -one.worth


def _merge(one: Attempt, members: Sequence[int], given: Mapping[str, Any], *, base: bool) -> Soup:
    return by_method(members, one.method.name, given, base=base and one.method.base != "none")


def _chosen(names: Sequence[str], inputs: SearchInputs) -> list[MergeMethod]:
    """Return the methods called `names`, or all that can merge these ingredients with no parameter given."""
    if names:
        return [METHODS.find(name) for name in names]
    return [method for method in METHODS.values() if _why_not(method, inputs) is None]


def _why_not(method: MergeMethod, inputs: SearchInputs) -> str | None:
    """Say why a method cannot merge these ingredients; None where it can."""
    least, most = method.ingredients
    n = len(inputs.refs)
    if n < least or (most is not None and n > most):
        return f"takes {least if most == least else f'{least} to {most}' if most else f'{least} and more'} ingredients"
    if method.needs_base and inputs.base is None:
        return "needs a base"
    required = [k for k, p in method.parameters.items() if p.default is None and not p.optional]
    return f"has no default for {required[0]}" if required else None


def numbers_of(method: MergeMethod) -> dict[str, Parameter]:
    """Return the continuous parameters of `method` that say what is merged, not how it is computed."""
    return {
        name: p
        for name, p in method.parameters.items()
        if name not in LAYER_RULE and name not in _SMALL and p.kind is float and p.default and p.bounds is not None
        and not (p.per_ingredient and name == "weight")
    }  # fmt: skip


def grid(method: MergeMethod) -> Iterator[Given]:
    """Yield the values beside the defaults: each number alone at half and twice its own, each word and each pair of
    numbers after that."""
    numbers = {name: _beside(p) for name, p in numbers_of(method).items()}
    for name, values in numbers.items():
        yield from ({name: value} for value in values)
    for name, p in method.parameters.items():
        yield from ({name: choice} for choice in p.choices if choice != p.default)
    names = list(numbers)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            yield from ({one: x, other: y} for x in numbers[one] for y in numbers[other])


def _beside(p: Parameter) -> list[float]:
    assert p.bounds is not None and isinstance(p.default, int | float)
    low, high = p.bounds.low, p.bounds.high
    values = [min(max(float(p.default) * factor, low), high) for factor in _FACTORS]
    return [v for v in dict.fromkeys(values) if v in p.bounds and not math.isclose(v, float(p.default))]


def box_of(p: Parameter) -> Bounds:
    """Return where CMA-ES may go with a number: its bounds, or from 0 to four times its default where they are wide."""
    assert p.bounds is not None and isinstance(p.default, int | float)
    wide = 4 * abs(float(p.default))
    low = max(p.bounds.low, 0.0 if p.default > 0 else -wide)
    return Bounds(low, min(p.bounds.high, wide), p.bounds.above and low == p.bounds.low)


def _tuned(
    trials: Trials, best: ScoredSoup, members: Sequence[int], one: Attempt, tune: int, *, base: bool
) -> ScoredSoup:
    """Try `tune` points of CMA-ES over all numbers of a method, from its best parameters."""
    import cma

    numbers = numbers_of(one.method)
    if not numbers:
        return best
    boxes = {name: box_of(p) for name, p in numbers.items()}
    given: Mapping[str, Any] = one.best.soup.parameters if one.best is not None else {}
    fixed = {k: v for k, v in given.items() if k not in numbers}
    start = [
        (float(given.get(name, p.default)) - boxes[name].low) / (boxes[name].high - boxes[name].low)
        for name, p in numbers.items()
    ]
    pad = max(0, 2 - len(start))  # CMA-ES needs two coordinates; one that pads means nothing
    generator = np.random.default_rng(trials.seed)
    drawn = {"randn": lambda n, size: generator.standard_normal((n, size)), "seed": math.nan, "bounds": [0, 1]}
    evolution = cma.CMAEvolutionStrategy([*start, *([0.5] * pad)], _FIRST_STEP, {**CMA_OPTIONS, **drawn})
    tried = 0
    while tried < tune and not evolution.stop():
        points = trials.agree(evolution.ask())
        worths: list[int | float] = []
        for point in points[: tune - tried]:
            values = {
                name: max(box.low + float(x) * (box.high - box.low), box.low + 1e-3 if box.above else box.low)
                for (name, box), x in zip(boxes.items(), point, strict=False)
            }
            soup = _merge(one, members, {**fixed, **values}, base=base)
            if not _makes_sense(one.method, soup.parameters, len(members)):
                worths.append(-math.inf)  # as a density whose probabilities reach below 0: no trial is spent on it
                continue
            measured = trials.measure(best, soup, "tune")
            worths.append(measured.worth)
            one.tried.add(soup)
            if measured.worth > best.worth:
                best = one.best = measured
        tried += len(worths)
        if len(worths) == len(points):
            ranks = {worth: rank for rank, worth in enumerate(sorted(set(worths), reverse=True))}
            evolution.tell(points, [ranks[worth] for worth in worths])
    return best


def _makes_sense(method: MergeMethod, parameters: Given, n: int) -> bool:
    """Whether the method takes these parameters together, for `n` ingredients."""
    try:
        resolve(method, parameters, ["tensor"], n)
    except UsageError:
        return False
    return True


def _said(trials: Trials, one: Attempt) -> dict[str, Any]:
    """Return what is said of a method in the document."""
    assert one.best is not None
    soup = one.best.soup
    return {
        "method": one.method.name,
        "parameters": soup.parameters,
        "value": trials.value_of(soup),
        "trials": len(one.tried),
    }


def _check(inputs: SearchInputs, *, budget: int, methods: Sequence[str], tune: int, proxy: float) -> None:
    for name in methods:
        if (why := _why_not(METHODS.find(name), inputs)) is not None:
            hint = "name the model that was fine-tuned with --base" if "base" in why else "leave it out"
            raise UsageError(why, f"--methods {name}", hint)
    if not _chosen(methods, inputs):
        raise UsageError("finds no merge method for these ingredients", "--strategy methods", "give --base")


def most_trials(n: int, *, budget: int, methods: Sequence[str], tune: int, proxy: float = 0.0) -> MostTrials:
    """Return the merges that are tried, which all read every ingredient."""
    return MostTrials(budget + tune, mixtures=budget + tune)


STRATEGIES.add(
    Strategy(
        "methods",
        try_methods,
        "merge all ingredients by every method that applies, and with other parameters (with --base: of task vectors)",
        options=(
            BUDGET,
            StrategyOption(
                "methods", str, (), "merge methods to try instead of all that apply", several=True, metavar="NAME"
            ),
            StrategyOption("tune", int, 0, "trials of CMA-ES over the numbers of the best method", low=0, metavar="N"),
            PROXY,
        ),
        most_trials=most_trials,
        labels={"merge": "another merge of {n}", "tune": "other parameters of {n}"},
        check=_check,
    ),
    module=__name__,
)
