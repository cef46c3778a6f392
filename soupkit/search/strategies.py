"""The strategies: each decides which soup is tried next, and nothing else.

`greedy` is recipe 1 of Wortsman et al. 2022 (https://arxiv.org/abs/2203.05482).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True, slots=True)
class Standing:
    """A soup whose score is known: its members in order, its score in the metric's units, its hits (bool [N])."""

    members: tuple[int, ...]
    worth: int | float
    hits: np.ndarray | None


class Trials(Protocol):
    """What a strategy may ask for."""

    def start(self, members: tuple[int, ...]) -> Standing:
        """Score a soup in full and begin with it."""

    def trial(
        self, current: Standing, members: tuple[int, ...], action: str, candidate: int, *, strict: bool = False
    ) -> Standing | None:
        """Score a soup as far as the rule needs; what becomes of it if it is accepted, else None. With `strict` only a
        higher score is accepted, whatever the options say."""


def greedy(trials: Trials, order: Sequence[int]) -> Standing:
    """Add the ingredients in `order`, the first as it is; keep each one with which the score does not fall."""
    current = trials.start((order[0],))
    for candidate in order[1:]:
        current = trials.trial(current, (*current.members, candidate), "add", candidate) or current
    return current


def random_orders(trials: Trials, order: Sequence[int], orders: int, seed: int) -> Standing:
    """Search greedily in `order`, then in `orders` - 1 random ones; the first best soup wins."""
    generator = np.random.default_rng(seed)
    best = greedy(trials, order)
    for _ in range(orders - 1):
        found = greedy(trials, [order[i] for i in generator.permutation(len(order))])
        best = found if found.worth > best.worth else best
    return best


def backward(trials: Trials, order: Sequence[int]) -> Standing:
    """Start from all ingredients; drop, the weakest first, each one without which the score does not fall."""
    current = trials.start(tuple(order))
    dropped = True
    while dropped:
        dropped = False
        for candidate in reversed(current.members):
            if len(current.members) == 1:
                break
            rest = tuple(m for m in current.members if m != candidate)
            if found := trials.trial(current, rest, "remove", candidate):
                current, dropped = found, True
    return current


def swap(trials: Trials, order: Sequence[int]) -> Standing:
    """Search greedily; then exchange members for others, the weakest first, while the score rises."""
    current = greedy(trials, order)
    improved = True
    while improved:
        improved = False
        for member in [m for m in reversed(order) if m in current.members]:
            rest = tuple(m for m in current.members if m != member)
            for candidate in [m for m in order if m not in current.members]:
                if found := trials.trial(current, (*rest, candidate), "swap", candidate, strict=True):
                    current, improved = found, True
                    break
    return current


STRATEGIES: dict[str, Callable[[Trials, Sequence[int]], Standing]] = {
    "greedy": greedy,
    "backward": backward,
    "swap": swap,
}
