"""The strategies that add, drop and exchange ingredients: each decides which soup is tried next, and nothing else.

`greedy` is recipe 1 of Wortsman et al. 2022 (https://arxiv.org/abs/2203.05482).
"""

from collections.abc import Sequence

import numpy as np

from soupkit.search.candidate import ScoredSoup, Trials, uniform


def greedy(trials: Trials, order: Sequence[int], later: int = 0) -> ScoredSoup:
    """Add the ingredients in `order`, the first as it is; keep each one with which the score does not fall.

    `later` trials follow when it is done.
    """
    current = trials.start(uniform(order[:1]))
    trials.expect(len(order) - 1 + later)
    for candidate in order[1:]:
        current = trials.trial(current, uniform([*current.members, candidate]), "add", candidate) or current
    return current


def random_orders(trials: Trials, order: Sequence[int], orders: int, seed: int) -> ScoredSoup:
    """Search greedily in `order`, then in `orders` - 1 random ones; the first best soup wins."""
    generator = np.random.default_rng(seed)
    best = greedy(trials, order, (orders - 1) * (len(order) - 1))
    for left in reversed(range(orders - 1)):
        found = greedy(trials, [order[i] for i in generator.permutation(len(order))], left * (len(order) - 1))
        best = found if found.worth > best.worth else best
    return best


def backward(trials: Trials, order: Sequence[int]) -> ScoredSoup:
    """Start from all ingredients; drop, the weakest first, each one without which the score does not fall."""
    current = trials.start(uniform(order))
    dropped = True
    while dropped:
        dropped = False
        trials.expect(len(current.members))
        for candidate in reversed(current.members):
            if len(current.members) == 1:
                break
            rest = uniform([m for m in current.members if m != candidate])
            if found := trials.trial(current, rest, "remove", candidate):
                current, dropped = found, True
    return current


def swap(trials: Trials, order: Sequence[int]) -> ScoredSoup:
    """Search greedily; then exchange members for others, the weakest first, while the score rises."""
    current = greedy(trials, order)
    improved = True
    while improved:
        improved = False
        trials.expect(len(current.members) * (len(order) - len(current.members)))
        for member in [m for m in reversed(order) if m in current.members]:
            rest = [m for m in current.members if m != member]
            for candidate in [m for m in order if m not in current.members]:
                if found := trials.trial(current, uniform([*rest, candidate]), "swap", candidate, strict=True):
                    current, improved = found, True
                    break
    return current
