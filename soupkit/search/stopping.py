"""When a trial may end: what is known of the current soup's hits bounds what a candidate can still gain.

`exact` ends a trial once it is certain to be rejected. `sequential` also ends it on strong evidence: a test martingale
on the paired differences, drawn without replacement with unequal probabilities (Waudby-Smith and Ramdas 2024,
"Estimating means of bounded random variables by betting", https://arxiv.org/abs/2010.09686; with weights, Shekhar et
al. 2023, "Risk-limiting financial audits via weighted sampling without replacement", https://arxiv.org/abs/2305.06884).
`likely` looks first at the images on which the current soup is least sure, where a candidate differs from it if
anywhere, and ends a trial when those left are unlikely to make up for what it lost.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from soupkit.search.hit_score import HitMetric

_BETS = np.linspace(
    0.02, 0.98, 25
)  # shares of the largest bet that cannot lose everything; their mean is the martingale
# How often an image is drawn, relative to its worth and to how much the ingredients disagree on it. An image that the
# soup gets wrong can only speak for the candidate: drawn too seldom, it would weigh so much that bets had to be small.
_FLOOR_RIGHT, _FLOOR_WRONG = 0.005, 0.1
# What is left of the disagreement on an image where the ingredient that is tried does what the soup does: there adding
# it hardly ever changes anything.
_OF_ONE_MIND = 0.1
# By how much the differences on the images after the first k, in the order of the soup's margins, may exceed those on
# the latter half of these k. On two pools of 32 fine-tunes (5,000 images, 70 to 300 differences in a trial) it was 0.6
# to 1.2.
_STILL_TO_COME = 1.2


class Rule(Protocol):
    """Watches one trial. `order` (int64 [N]) is in which order images are wanted."""

    order: np.ndarray

    def sees(self, images: np.ndarray, hits: np.ndarray) -> bool:
        """Take in the candidate's `hits` (bool [n]) on the next `images` of the order; whether it is rejected."""


def wanted_order(current: np.ndarray, disagreement: np.ndarray) -> np.ndarray:
    """Return the images that the soup gets wrong, then the others, each by how much the ingredients disagree.

    Nothing is certain while there is much to gain, and only images that the soup gets wrong can gain.
    """
    return np.lexsort((-disagreement, current))


class Never:
    """Every trial sees every image."""

    def __init__(self, current: np.ndarray, disagreement: np.ndarray) -> None:
        self.order = wanted_order(current, disagreement)

    def sees(self, images: np.ndarray, hits: np.ndarray) -> bool:
        """Return False."""
        return False


class Exact:
    """A trial ends as soon as no outcome of the images left can make it accepted."""

    def __init__(self, current: np.ndarray, disagreement: np.ndarray, metric: HitMetric, *, strict: bool) -> None:
        """`current` (bool [N]) are the soup's hits; with `strict` a candidate must gain, else it must not fall."""
        self.order = wanted_order(current, disagreement)
        self._current, self._metric = current, metric
        self._needed = 1 if strict else 0
        self._possible = metric.worth(~current)  # the difference to the soup if all that is left went well

    def sees(self, images: np.ndarray, hits: np.ndarray) -> bool:
        """Return whether the candidate is certain to be rejected."""
        was = self._current[images]
        self._possible -= self._metric.worth(images[~was & ~hits]) + self._metric.worth(images[was & ~hits])
        return self._possible < self._needed


class Sequential:
    """A trial ends when certain, or when a candidate as good as the soup would have looked this bad with a probability
    of at most `error_rate`, however often one looks (Ville's inequality)."""

    def __init__(
        self,
        current: np.ndarray,
        disagreement: np.ndarray,
        metric: HitMetric,
        *,
        strict: bool,
        error_rate: float,
        generator: np.random.Generator,
    ) -> None:
        self._certain = Exact(current, disagreement, metric, strict=strict)
        worth = metric.weights
        rate = worth * np.where(current, _FLOOR_RIGHT + disagreement, _FLOOR_WRONG + disagreement)
        # Drawn one after the other with these probabilities among what is left (Efraimidis and Spirakis 2006).
        self.order = np.argsort(generator.exponential(size=len(rate)) / rate, kind="stable")
        self._current, self._worth, self._rate = current, worth, rate
        ordered = rate[self.order]
        self._left = np.cumsum(ordered[::-1])[::-1]  # the sum of rates of an image and all after it
        # The largest value that any image left could have: worth / probability, of those that the soup gets wrong.
        value = np.where(current, 0.0, worth / rate)[self.order]
        self._largest = np.maximum.accumulate(value[::-1])[::-1] * self._left
        self._position, self._sum = 0, 0.0
        self._wealth = np.zeros(len(_BETS))  # logarithms
        self._limit = -np.log(error_rate)

    def sees(self, images: np.ndarray, hits: np.ndarray) -> bool:
        """Return whether the candidate is certain, or almost certain, to be rejected."""
        difference = (hits.astype(np.int8) - self._current[images]) * self._worth[images]
        here = slice(self._position, self._position + len(images))
        self._position = here.stop
        before = self._sum + np.concatenate([[0.0], np.cumsum(difference)])[:-1]
        self._sum += float(difference.sum())
        drawn = difference / self._rate[images] * self._left[here]
        # A candidate no worse than the soup still has at least -before to come, so `drawn` is at least that on average.
        most = self._largest[here] + before
        playable = most > 1e-9 * self._left[here]
        bet = np.divide(1.0, most, out=np.zeros(len(images)), where=playable)
        steps = np.log1p(-_BETS[:, None] * (bet * (drawn + before))[None, :])
        wealth = self._wealth[:, None] + np.cumsum(steps, axis=1)
        self._wealth = wealth[:, -1]
        top = wealth.max(axis=0)
        average = top + np.log(np.exp(wealth - top).mean(axis=0))
        return bool((average >= self._limit).any()) or self._certain.sees(images, hits)


class Likely:
    """A trial ends when certain, or when the images left are unlikely to make up for the candidate's arrears.

    Images come by the soup's margin, the smallest first. The differences to come are reckoned from those on the latter
    half of the images seen, and their sum as normal with mean 0: it would have to be more than one deviation. An
    estimate, asked again after each look, and no guarantee.
    """

    def __init__(
        self,
        current: np.ndarray,
        margins: np.ndarray,
        metric: HitMetric,
        *,
        strict: bool,
    ) -> None:
        """`margins` [N] are how far the soup is from another answer, in any unit that grows with it."""
        self._certain = Exact(current, margins, metric, strict=strict)
        self.order = np.argsort(margins, kind="stable")
        self._current, self._worth = current, metric.weights
        self._needed = 1.0 / max(metric.units) if strict else 0.0
        self._gained, self._seen = 0.0, 0
        self._squares = np.zeros(len(current) + 1)  # summed over the images seen

    def sees(self, images: np.ndarray, hits: np.ndarray) -> bool:
        """Return whether the candidate is certain, or likely, to be rejected."""
        difference = (hits.astype(np.int8) - self._current[images]) * self._worth[images]
        seen = self._seen + len(images)
        self._squares[self._seen + 1 : seen + 1] = self._squares[self._seen] + np.cumsum(difference**2)
        self._gained, self._seen = self._gained + float(difference.sum()), seen
        half = seen // 2
        left = min(_STILL_TO_COME, (len(self._current) - seen) / (seen - half))
        # One more than was seen, so that a few images without a difference are no proof.
        to_come = left * (self._squares[seen] - self._squares[half] + 1)
        unlikely = self._gained + np.sqrt(to_come) < self._needed
        return self._certain.sees(images, hits) or bool(unlikely)


def open_rule(
    name: str,
    current: np.ndarray,
    disagreement: np.ndarray,
    metric: HitMetric,
    *,
    strict: bool,
    error_rate: float = 0.05,
    seed: Sequence[int] = (0,),
    pulls_to: np.ndarray | None = None,
    margins: np.ndarray | None = None,
) -> Rule:
    """Return the rule called `name` ("none", "exact", "sequential", "likely") for one trial against hits `current`.

    `disagreement` (float64 [N]) is the share of the ingredients, at most half, that differ from the others on an image.
    `pulls_to` (bool [N]) are the hits towards which the trial changes the soup, where they are known: those of the
    ingredient that is added alone. Neither decides anything; both say where a difference is to be looked for.
    `margins` [N] are how far the current soup is from another answer: `likely` needs them, and is `exact` without.
    """
    if name == "likely" and margins is not None:
        return Likely(current, margins, metric, strict=strict)
    if pulls_to is not None:
        disagreement = disagreement * np.where(pulls_to == current, _OF_ONE_MIND, 1.0)
    if name == "none":
        return Never(current, disagreement)
    if name in ("exact", "likely"):
        return Exact(current, disagreement, metric, strict=strict)
    generator = np.random.default_rng(list(seed))
    return Sequential(current, disagreement, metric, strict=strict, error_rate=error_rate, generator=generator)
