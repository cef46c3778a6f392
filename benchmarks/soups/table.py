"""The studies' tables: accuracies with intervals, how often a soup beats its best ingredient and by how much."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan, sqrt

from scipy.stats import t as student

from soupkit.evaluation import Score
from soupkit.evaluation.intervals import wilson

_Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Gain:
    """A soup's accuracy less that of its `best` ingredient on the same images, in points, with its 95 % interval.

    `p` is that of McNemar's exact test.
    """

    best: str
    points: float
    low: float
    high: float
    p: float


@dataclass(frozen=True, slots=True)
class Seed:
    """One set of seeds: scores by task and model, gains by task and soup, and each soup's ingredients.

    `base` is the model that the fine-tunes start from.
    """

    number: int
    base: str
    scores: dict[tuple[str, str], Score]
    gains: dict[tuple[str, str], Gain]
    soups: dict[str, list[str]]


def gain_over(best: str, only_soup: int, only_best: int, n: int, p: float) -> Gain:
    """Return the gain of a soup that alone is right on `only_soup` of `n` images, and alone wrong on `only_best`.

    The interval is that of a difference of two paired proportions (Wald).
    """
    difference = (only_soup - only_best) / n
    half = _Z95 * sqrt(max(only_soup + only_best - (only_soup - only_best) ** 2 / n, 0)) / n
    return Gain(best, 100 * difference, 100 * (difference - half), 100 * (difference + half), p)


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of values and its 95 % interval by Student's t; NaN for the interval of one value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, nan, nan
    half = float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / sqrt(len(values))
    return mean, mean - half, mean + half


def tables(seeds: Sequence[Seed]) -> list[str]:
    """Return a table and its sentence for every soup on every task."""
    tasks = list(dict.fromkeys(task for task, _ in seeds[0].scores))
    return [line for task in tasks for soup in seeds[0].soups for line in _table(seeds, task, soup)]


def rows_of_seeds(seeds: Sequence[tuple[int, Sequence[Score], Gain]]) -> list[str]:
    """Return a row for each set of seeds, its number, what models score, what the soup gains; then their means."""
    lines = []
    for number, scores, gain in seeds:
        difference = f"{gain.points:+.2f} ({gain.low:+.2f} to {gain.high:+.2f}), {gain.best}"
        lines.append(f"| {number} | {' | '.join(map(accuracy, scores))} | {difference} | {gain.p:.2g} |")
    models = zip(*(scores for _, scores, _ in seeds), strict=True)
    means = [interval(*mean_interval([100 * score.value for score in model]), sign="") for model in models]
    gained = interval(*mean_interval([gain.points for _, _, gain in seeds]))
    return [*lines, f"| mean | {' | '.join(means)} | {gained} | |"]


def _table(seeds: Sequence[Seed], task: str, soup: str) -> list[str]:
    ingredients = seeds[0].soups[soup]
    models = [seeds[0].base, *ingredients, soup]
    images = seeds[0].scores[task, soup].n
    lines = [
        f"### {task}, soup of {', '.join(ingredients)}: accuracy on {images:,} images, % (95 % intervals)",
        "",
        f"| seeds | {' | '.join(models)} | {soup} less its best ingredient | McNemar's p |",
        "|" + "---|" * (len(models) + 3),
    ]
    lines += rows_of_seeds(
        [(s.number, [s.scores[task, model] for model in models], s.gains[task, soup]) for s in seeds]
    )
    gains = [seed.gains[task, soup].points for seed in seeds]
    over_best = mean_interval(gains)
    over_mean = mean_interval(
        [
            100 * (s.scores[task, soup].value - statistics.fmean(s.scores[task, i].value for i in ingredients))
            for s in seeds
        ]
    )
    won, n = sum(gain > 0 for gain in gains), len(seeds)
    low, high = wilson(won, n)
    return [
        *lines,
        "",
        f"The soup beats its best ingredient with {won} of {n} sets of seeds ({low:.0%} to {high:.0%}), on average by "
        f"{interval(*over_best)} points; the mean of its ingredients by {interval(*over_mean)}.",
        "",
    ]


def accuracy(score: Score) -> str:
    """Return a score in percent with its interval, as a cell has it."""
    return f"{100 * score.value:.1f} ({100 * score.low:.1f} to {100 * score.high:.1f})"


def interval(value: float, low: float, high: float, sign: str = "+") -> str:
    """Return a value with its interval, where there is one."""
    return f"{value:{sign}.2f}" + ("" if isnan(low) else f" ({low:{sign}.2f} to {high:{sign}.2f})")
