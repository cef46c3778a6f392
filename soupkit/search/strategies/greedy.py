"""Greedy search: recipe 1 of Wortsman et al. 2022 (https://arxiv.org/abs/2203.05482), and the same in random orders."""

from collections.abc import Sequence

import numpy as np

from soupkit.search.candidate import Proxy, ScoredSoup, Trials, uniform
from soupkit.search.strategies.table import PROXY, STRATEGIES, MostTrials, Strategy, StrategyOption

_ALONE = 6  # one of so many ingredients is scored alone, as far as it takes to see that another is better
_DOUBT = 2.0  # standard errors below the guess for the current soup: what is guessed to be worse is not tried
ADDING = {"add": "adding {ref}"}
GUESSING = {**ADDING, "alone": "{ref} alone", "remove": "without {ref}"}


def greedy(trials: Trials, order: Sequence[int], later: int = 0) -> ScoredSoup:
    """Add the ingredients in `order`, the first as it is; keep each one with which the score does not fall.

    `later` trials follow when it is done.
    """
    current = trials.start(uniform(order[:1]))
    trials.expect(len(order) - 1 + later)
    for candidate in order[1:]:
        current = trials.trial(current, uniform([*current.members, candidate]), "add", candidate) or current
    return current


def greedy_by_proxy(trials: Trials, order: Sequence[int], guesses: Proxy) -> ScoredSoup:
    """Search greedily where the `order` comes from a part of the images: find the best of its first ingredients by
    trials of each alone, add as `greedy` does what is not clearly worse by its guess, and drop members without which
    the score rises."""
    current = trials.start(uniform(order[:1]))
    for candidate in order[1 : _alone(len(order))]:
        current = trials.trial(current, uniform([candidate]), "alone", candidate, strict=True) or current
    for candidate in order:
        if candidate in current.members:
            continue
        soup = uniform([*current.members, candidate])
        if guesses.value(soup) < guesses.value(current.soup) - _DOUBT * guesses.doubt(soup, current.soup):
            guesses.prune(1)
            continue
        current = trials.trial(current, soup, "add", candidate) or current
    return _without_the_useless(trials, current, guesses)


def _alone(n: int) -> int:
    return -(-n // _ALONE)


def guessed_members(order: Sequence[int], guesses: Proxy) -> list[int]:
    """Return the members that a greedy search among guesses ends with, in the order of the sum."""
    path, guess = [order[0]], guesses.promise(uniform(order[:1]))
    for candidate in order[1:]:
        if (with_it := guesses.promise(uniform([*path, candidate]))) >= guess:
            path, guess = [*path, candidate], with_it
    return path


def _without_the_useless(trials: Trials, current: ScoredSoup, guesses: Proxy) -> ScoredSoup:
    """Drop each member without which the score rises."""
    rest = {m: uniform([other for other in current.members if other != m]) for m in current.members}
    useless_first = sorted(rest, key=lambda m: -guesses.promise(rest[m])) if len(rest) > 1 else []
    for member in useless_first:
        if len(current.members) > 1:
            smaller = uniform([m for m in current.members if m != member])
            current = trials.trial(current, smaller, "remove", member, strict=True) or current
    return current


def in_several_orders(
    trials: Trials, order: Sequence[int], *, orders: int = 1, proxy: float = PROXY.default
) -> ScoredSoup:
    """Search greedily in `order`, then in `orders` - 1 random ones; the first best soup wins. With `proxy` guesses
    choose what is tried."""
    generator = np.random.default_rng(trials.seed)

    def search(order: Sequence[int], later: int) -> ScoredSoup:
        return greedy(trials, order, later) if trials.proxy is None else greedy_by_proxy(trials, order, trials.proxy)

    best = search(order, (orders - 1) * (len(order) - 1))
    for left in reversed(range(orders - 1)):
        soup = search([order[i] for i in generator.permutation(len(order))], left * (len(order) - 1))
        best = soup if soup.worth > best.worth else best
    return best


def most_trials(n: int, *, orders: int = 1, proxy: float = 0.0) -> MostTrials:
    """Return the trials of `orders` greedy searches among `n`."""
    return MostTrials(orders * most_greedy_trials(n, proxy))


def most_greedy_trials(n: int, proxy: float) -> int:
    """Return the trials of one greedy search among `n`, with or without guesses."""
    return n - 1 if not proxy else _alone(n) - 1 + n - 1 + n


STRATEGIES.add(
    Strategy(
        "greedy",
        in_several_orders,
        "add in the order of the scores; --orders K tries K - 1 random orders as well, the best soup wins",
        options=(StrategyOption("orders", int, 1, "greedy searches to make", low=1, metavar="K"), PROXY),
        most_trials=most_trials,
        labels=GUESSING,
    ),
    module=__name__,
)
