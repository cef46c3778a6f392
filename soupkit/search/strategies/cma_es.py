"""Mixing weights by CMA-ES (Hansen 2016, "The CMA evolution strategy: a tutorial", https://arxiv.org/abs/1604.00772).

One weight per ingredient, or per ingredient and block of tensors, from the simplex. The search begins at the greedy
soup with its equal weights. A point that CMA-ES draws off the simplex means the nearest point on it, in which weak
ingredients have no share at all.
"""

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np

from soupkit.errors import UsageError
from soupkit.search.candidate import Proxy, ScoredSoup, SearchInputs, Soup, Trials, mixture
from soupkit.search.strategies.greedy import GUESSING, greedy, greedy_by_proxy, most_greedy_trials
from soupkit.search.strategies.table import BUDGET, PROXY, STRATEGIES, MostTrials, Strategy, StrategyOption

MIXING = {"mix": "a mixture of {n}"}

# Only ranks are told, so nothing that compares scores of different generations may end the search; steps may.
CMA_OPTIONS = {
    "verbose": -9, "tolfun": 0, "tolfunhist": 0, "tolfunrel": 0, "tolflatfitness": math.inf,
    "tolstagnation": math.inf, "tolx": 1e-3,
}  # fmt: skip


def mix(
    trials: Trials, order: Sequence[int], *, budget: int = BUDGET.default, blocks: Sequence[str] = (),
    proxy: float = PROXY.default,
) -> ScoredSoup:  # fmt: skip
    """Try `budget` mixtures of the ingredients in `order`, at most, with weights for each of `blocks`.

    Returns the first best soup among the greedy one and the mixtures. Every mixture is scored in full: CMA-ES ranks
    them all. With `proxy` it ranks guesses, and of each generation the best guess is scored. It ends early when its
    steps become smaller than a thousandth of the soup.
    """
    import cma

    blocks = all_blocks(blocks, trials.inputs.tensors)
    guesses = trials.proxy
    best = greedy(trials, order, budget) if guesses is None else greedy_by_proxy(trials, order, guesses)
    k = len(best.members)
    start = np.tile([1 / k if m in best.members else 0.0 for m in order], len(blocks))
    generator = np.random.default_rng(trials.seed)
    drawn = {"randn": lambda n, size: generator.standard_normal((n, size)), "seed": math.nan}
    evolution = cma.CMAEvolutionStrategy(start, 0.5 / max(k, 2), {**CMA_OPTIONS, **drawn})
    left = budget
    while left > 0 and not evolution.stop():
        points = trials.agree(evolution.ask())
        meant = [meaning(point, order, blocks) for point in points]
        if guesses is None:
            best, ranked = _score_all(trials, best, meant[:left])
            left -= len(ranked)
        else:
            best, ranked = _score_the_best_guess(trials, best, meant, guesses)
            left -= 1
        if len(ranked) == len(points):
            # Scores that count hits are often equal: then the point nearer to the simplex counts as the better one.
            ranks = {pair: rank for rank, pair in enumerate(sorted(set(ranked)))}
            evolution.tell(points, [ranks[pair] for pair in ranked])
    return best


def _score_all(
    trials: Trials, best: ScoredSoup, meant: Sequence[tuple[Soup, float]]
) -> tuple[ScoredSoup, list[tuple[float, float]]]:
    """Score mixtures; returns the best soup then, and each one's place: what it lacks, and how far its point was."""
    ranked: list[tuple[float, float]] = []
    for soup, distance in meant:
        mixed = trials.measure(best, soup, "mix")
        ranked.append((-mixed.worth, distance))
        best = mixed if mixed.worth > best.worth else best
    return best, ranked


def _score_the_best_guess(
    trials: Trials, best: ScoredSoup, meant: Sequence[tuple[Soup, float]], guesses: Proxy
) -> tuple[ScoredSoup, list[tuple[float, float]]]:
    """Rank mixtures by guesses, and score the first, if it is guessed to be no worse than the best soup so far."""
    ranked = [(-guesses.promise(soup), distance) for soup, distance in meant]
    soup, _ = meant[ranked.index(min(ranked))]
    worth_a_trial = guesses.promise(soup) >= guesses.promise(best.soup)
    guesses.prune(len(meant) - worth_a_trial)
    if worth_a_trial:
        mixed = trials.measure(best, soup, "mix")
        best = mixed if mixed.worth > best.worth else best
    return best, ranked


def meaning(point: np.ndarray, order: Sequence[int], blocks: Sequence[str]) -> tuple[Soup, float]:
    """Return the soup that `point` (float64 [blocks x ingredients]) stands for, and how far that is from it."""
    drawn = point.reshape(len(blocks), len(order))
    shares = np.stack([nearest_shares(row) for row in drawn])
    return mixture(order, dict(zip(blocks, shares.tolist(), strict=True))), float(np.linalg.norm(drawn - shares))


def nearest_shares(x: np.ndarray) -> np.ndarray:
    """Return the point of the simplex nearest to `x`, float64 [n] (Held, Wolfe and Crowder 1974,
    https://doi.org/10.1007/BF01580223): a number is taken off all of `x` and what is below zero cut."""
    falling = np.sort(x)[::-1]
    off = (np.cumsum(falling) - 1) / np.arange(1, len(x) + 1)
    return np.maximum(x - off[np.flatnonzero(falling > off)[-1]], 0)


def all_blocks(patterns: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Return `patterns` and, where they leave some of the tensors `names` out, `*` for the rest.

    Raises UsageError for a pattern that is left no tensor.
    """
    if len(set(patterns)) < len(patterns):
        raise UsageError("names a pattern twice", "--block", "give each once")
    blocks = [*patterns, *(["*"] if any(_first_match(name, patterns) is None for name in names) else [])]
    taken = {_first_match(name, blocks) for name in names}
    for pattern in blocks:
        if pattern not in taken:
            raise UsageError(
                f"pattern {pattern!r} matches no tensor that is left for it",
                "--block",
                "`soupkit inspect --tensors` lists the names; the first pattern that matches counts",
            )
    return tuple(blocks)


def _first_match(name: str, patterns: Sequence[str]) -> str | None:
    return next((pattern for pattern in patterns if fnmatchcase(name, pattern)), None)


def _check(inputs: SearchInputs, *, budget: int, blocks: Sequence[str], proxy: float) -> None:
    all_blocks(blocks, inputs.tensors)


def most_trials(n: int, *, budget: int, blocks: Sequence[str] = (), proxy: float = 0.0) -> MostTrials:
    """Return the trials of the greedy search that comes first, and of the mixtures."""
    return MostTrials(most_greedy_trials(n, proxy) + budget, mixtures=budget)


STRATEGIES.add(
    Strategy(
        "weights",
        mix,
        "mixing weights by CMA-ES, from the greedy soup: one per ingredient, or per ingredient and --block",
        options=(
            BUDGET,
            StrategyOption(
                "blocks",
                str,
                (),
                "tensors with weights of their own, such as visual.*",
                several=True,
                metavar="PATTERN",
                flag="--block",
            ),
            PROXY,
        ),
        most_trials=most_trials,
        labels={**GUESSING, **MIXING},
        check=_check,
    ),
    module=__name__,
)
