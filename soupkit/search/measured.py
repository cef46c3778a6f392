"""What came of scoring one soup, and the one score that its scores on several tasks make."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import sqrt
from typing import Literal, Protocol

import numpy as np

from soupkit.evaluation.task import Score
from soupkit.search.candidate import Soup
from soupkit.search.document import SearchScore
from soupkit.search.hit_score import HitMetric
from soupkit.search.stopping import Rule

Unit = Literal["fraction", "number"]


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of scoring a soup.

    `worth` is its score in units of the metric, higher is better, and `value` the same as it is told (a fraction, or a
    number of the user's own), both None where the trial ended early; `hits` are bool [N], None for scores that are no
    sums of hits or are not whole; `count` hits were seen on `images` images, `scored` of them for the first time;
    `scores` has one score per selecting task where it is whole. `margins` [N], in any unit, are how sure it is of its
    answers, None where that is not known.
    """

    worth: int | float | None
    value: float | None
    hits: np.ndarray | None
    count: int | None
    images: int
    scored: int
    scores: tuple[SearchScore, ...] = ()
    whole: SearchScore | None = None
    margins: np.ndarray | None = None

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
    def half_interval(self) -> float | None:
        """Half the width of the score's 95 % interval, None where it has none; that of a mean is the root of the tasks'
        summed squares."""
        widths = [s.high - s.low for s in self.scores if s.low is not None and s.high is not None]
        if self.whole is not None or not widths or len(widths) < len(self.scores):
            return None
        return sqrt(sum((width / 2) ** 2 for width in widths)) / len(widths)

    def combined(self) -> SearchScore:
        """Return one score of all that selects: the task's own, or the mean with its tasks as metrics."""
        if self.whole is not None:
            return self.whole
        if len(self.scores) == 1:
            return self.scores[0]
        value, half = self.whole_value, self.half_interval
        names = [s.task_and_split for s in self.scores]
        splits = {s.split for s in self.scores}
        return SearchScore(
            ref=self.scores[0].ref,
            fingerprint=self.scores[0].fingerprint,
            task=f"mean of {', '.join(names)}",
            split=splits.pop() if len(splits) == 1 else "several",
            metric="mean" if self.scores[0].unit == "fraction" else f"mean {self.scores[0].metric}",
            value=value,
            n=sum(s.n or 0 for s in self.scores),
            low=None if half is None else max(0.0, value - half),
            high=None if half is None else min(1.0, value + half),
            metrics={name: s.value for name, s in zip(names, self.scores, strict=True)},
            unit=self.scores[0].unit,
        )


class Scorer(Protocol):
    """What scores soups for the trials of a search.

    `n` are the images of a whole pass, or 1 where a soup is asked about as a whole: `counts` says which. `unit`
    is what values are, `scored` how much of `n` was scored in
    this run.
    """

    n: int
    counts: str

    @property
    def stops(self) -> bool:
        """Whether a rule can end a trial before it is whole."""

    @property
    def unit(self) -> Unit:
        """What values are."""

    @property
    def minimizes(self) -> bool:
        """Whether a low value is good."""

    @property
    def scored(self) -> int:
        """How much was scored."""

    @property
    def metric(self) -> HitMetric | None:
        """What each image is worth; None for a score that is no sum of hits."""

    def individual(self, m: int) -> Measured:
        """Score ingredient `m` alone."""

    def examine(self, soup: Soup, rule: Rule | None) -> Measured:
        """Score `soup` until `rule` rejects it (None: to the end)."""


def shown(score: Score) -> SearchScore:
    """Return a task's score as the document holds it."""
    return SearchScore.model_validate(asdict(score))


def tasks_by_ingredients(ingredients: Sequence[Measured]) -> np.ndarray:
    """Return the ingredients' scores on each selecting task, float64 [tasks, ingredients]."""
    return np.array([[score.value for score in measured.scores] for measured in ingredients]).T
