"""Greedy search: recipe 1 of Wortsman et al. 2022 (https://arxiv.org/abs/2203.05482), and the same in random orders."""

from collections.abc import Sequence

import numpy as np

from soupkit.search.candidate import ScoredSoup, Trials, uniform
from soupkit.search.strategies.table import STRATEGIES, MostTrials, Strategy, StrategyOption

ADDING = {"add": "adding {ref}"}


def greedy(trials: Trials, order: Sequence[int], later: int = 0) -> ScoredSoup:
    """Add the ingredients in `order`, the first as it is; keep each one with which the score does not fall.

    `later` trials follow when it is done.
    """
    current = trials.start(uniform(order[:1]))
    trials.expect(len(order) - 1 + later)
    for candidate in order[1:]:
        current = trials.trial(current, uniform([*current.members, candidate]), "add", candidate) or current
    return current


def in_several_orders(trials: Trials, order: Sequence[int], *, orders: int = 1) -> ScoredSoup:
    """Search greedily in `order`, then in `orders` - 1 random ones; the first best soup wins."""
    generator = np.random.default_rng(trials.seed)
    best = greedy(trials, order, (orders - 1) * (len(order) - 1))
    for left in reversed(range(orders - 1)):
        soup = greedy(trials, [order[i] for i in generator.permutation(len(order))], left * (len(order) - 1))
        best = soup if soup.worth > best.worth else best
    return best


def most_trials(n: int, *, orders: int = 1) -> MostTrials:
    """Return the trials of `orders` greedy searches among `n`."""
    return MostTrials(orders * (n - 1))


STRATEGIES.add(
    Strategy(
        "greedy",
        in_several_orders,
        "add in the order of the scores; --orders K tries K - 1 random orders as well, the best soup wins",
        options=(StrategyOption("orders", int, 1, "greedy searches to make", low=1, metavar="K"),),
        most_trials=most_trials,
        labels=ADDING,
    ),
    module=__name__,
)
