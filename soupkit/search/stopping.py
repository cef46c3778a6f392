"""When a trial may end: what is known of the current soup's hits bounds what a candidate can still gain.

`exact` ends a trial once it is certain to be rejected. `sequential` also ends it on strong evidence: a test martingale
on the paired differences, drawn without replacement with unequal probabilities (Waudby-Smith and Ramdas 2024,
"Estimating means of bounded random variables by betting", https://arxiv.org/abs/2010.09686; with weights, Shekhar et
al. 2023, "Risk-limiting financial audits via weighted sampling without replacement", https://arxiv.org/abs/2305.06884).
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
) -> Rule:
    """Return the rule called `name` ("none", "exact" or "sequential") for one trial against the hits `current`.

    `disagreement` (float64 [N]) is the share of the ingredients, at most half, that differ from the others on an image.
    `pulls_to` (bool [N]) are the hits towards which the trial changes the soup, where they are known: those of the
    ingredient that is added alone. Neither decides anything; both say where a difference is to be looked for.
    """
    if pulls_to is not None:
        disagreement = disagreement * np.where(pulls_to == current, _OF_ONE_MIND, 1.0)
    if name == "none":
        return Never(current, disagreement)
    if name == "exact":
        return Exact(current, disagreement, metric, strict=strict)
    generator = np.random.default_rng(list(seed))
    return Sequential(current, disagreement, metric, strict=strict, error_rate=error_rate, generator=generator)
