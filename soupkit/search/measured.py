"""What came of scoring one soup, and the one score that its scores on several tasks make."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Protocol

import numpy as np

from soupkit.evaluation.task import Score
from soupkit.search.candidate import Soup
from soupkit.search.hit_score import HitMetric
from soupkit.search.stopping import Rule


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of scoring a soup.

    `worth` is its score in units of the metric, and `value` the same as it is told (a fraction), both None where the
    trial ended early; `hits` are bool [N], None for scores that are no sums of hits or are not whole; `count` hits were
    seen on `images` images, `scored` of them for the first time; `scores` has one Score per selecting task where it is
    whole.
    """

    worth: int | float | None
    value: float | None
    hits: np.ndarray | None
    count: int | None
    images: int
    scored: int
    scores: tuple[Score, ...] = ()

    @property
    def whole_worth(self) -> int | float:
        """The worth of what was scored to the end."""
        assert self.worth is not None
        return self.worth

    @property
    def whole_value(self) -> float:
        """The value of what was scored to the end."""
        assert self.value is not None
        return self.value

    def again(self) -> "Measured":
        """Return the same as a trial that scores no image: it was seen before."""
        return replace(self, scored=0)

    @property
    def half_interval(self) -> float:
        """Half the width of the score's 95 % interval; that of a mean is the root of the tasks' summed squares."""
        return sqrt(sum(((s.high - s.low) / 2) ** 2 for s in self.scores)) / len(self.scores)

    def combined(self) -> Score:
        """Return one Score of all selecting tasks together: the task's own, or the mean with its tasks as metrics."""
        if len(self.scores) == 1:
            return self.scores[0]
        value, half = self.whole_value, self.half_interval
        names = [f"{s.task}:{s.split}" for s in self.scores]
        splits = {s.split for s in self.scores}
        return Score(
            self.scores[0].ref,
            self.scores[0].fingerprint,
            f"mean of {', '.join(names)}",
            splits.pop() if len(splits) == 1 else "several",
            "mean",
            value,
            sum(s.n for s in self.scores),
            max(0.0, value - half),
            min(1.0, value + half),
            {name: s.value for name, s in zip(names, self.scores, strict=True)},
        )


class Scorer(Protocol):
    """What scores soups for the trials of a search.

    `n` are the images of a whole pass; `metric` says what each is worth, None for a score that is no sum of hits (a
    rule can end none of its trials); `scored` counts the images that went through a model in this run.
    """

    n: int
    scored: int

    @property
    def metric(self) -> HitMetric | None:
        """What images are worth."""

    def individual(self, m: int) -> Measured:
        """Score ingredient `m` alone."""

    def examine(self, soup: Soup, rule: Rule | None) -> Measured:
        """Score `soup` until `rule` rejects it (None: to the end)."""


def tasks_by_ingredients(ingredients: Sequence[Measured]) -> np.ndarray:
    """Return the ingredients' scores on each selecting task, float64 [tasks, ingredients]."""
    return np.array([[score.value for score in measured.scores] for measured in ingredients]).T
