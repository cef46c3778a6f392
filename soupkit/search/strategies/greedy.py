"""Greedy search: recipe 1 of Wortsman et al. 2022 (https://arxiv.org/abs/2203.05482), and the same in random orders."""

from collections.abc import Sequence

import numpy as np

from soupkit.search.candidate import Proxy, ScoredSoup, Trials, uniform
from soupkit.search.strategies.table import PROXY, STRATEGIES, MostTrials, Strategy, StrategyOption

# Standard errors below the guess for the current soup: with 0.75, 15 % of the images and eight simulated pools of 32
# ingredients took 23 to 31 % of the images of a search without guesses, for soups as good on other images; with 0.5 one
# of the eight ended worse, with 1 one took 40 %.
_DOUBT = 0.75
# Candidates rejected one after the other, the most promising first, after which the others are not worth a trial:
# without this bound a pool of 32 fine-tunes of a small CLIP tried 13 candidates, one of them accepted, for 40 % of the
# images.
_PATIENCE = 4
ADDING = {"add": "adding {ref}"}
GUESSING = {**ADDING, "propose": "the {n} that averaged logits chose", "remove": "without {ref}"}


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
    """Let guesses choose what is tried: first the soup that a greedy search among guesses ends with, and where that is
    worse than the first ingredient halves of it; then it without each of its members, the least useful first; then it
    with each of the others that is not clearly useless, the most promising first, until several were rejected one after
    the other."""
    current = trials.start(uniform(order[:1]))
    path = guessed_members(order, guesses)
    size = len(path)
    while size > 1:
        if (better := trials.trial(current, uniform(path[:size]), "propose", None)) is not None:
            current = better
            break
        size //= 2
    current = _without_the_useless(trials, current, guesses)
    left = [m for m in order if m not in current.members]
    rejected = 0  # one after the other
    while left:
        soups = [uniform([*current.members, m]) for m in left]
        at = int(np.argmax([guesses.value(soup) for soup in soups]))
        doubt = _DOUBT * guesses.doubt(soups[at], current.soup)
        if rejected == _PATIENCE or guesses.value(soups[at]) < guesses.value(current.soup) - doubt:
            guesses.prune(len(left))
            break
        candidate = left.pop(at)
        better = trials.trial(current, soups[at], "add", candidate)
        current, rejected = (current, rejected + 1) if better is None else (better, 0)
    return current


def guessed_members(order: Sequence[int], guesses: Proxy) -> list[int]:
    """Return the members that a greedy search among guesses ends with, in the order of the sum."""
    path, guess = [order[0]], guesses.value(uniform(order[:1]))
    for candidate in order[1:]:
        if (with_it := guesses.value(uniform([*path, candidate]))) >= guess:
            path, guess = [*path, candidate], with_it
    return path


def _without_the_useless(trials: Trials, current: ScoredSoup, guesses: Proxy) -> ScoredSoup:
    """Drop each member without which the score does not fall."""
    rest = {m: uniform([other for other in current.members if other != m]) for m in current.members}
    useless_first = sorted(rest, key=lambda m: -guesses.value(rest[m])) if len(rest) > 1 else []
    for member in useless_first:
        if len(current.members) > 1:
            smaller = uniform([m for m in current.members if m != member])
            current = trials.trial(current, smaller, "remove", member) or current
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
    """Return the trials of `orders` greedy searches among `n`; with guesses come the soup that they chose, or a half of
    it, and so on, and it without each member, before."""
    return MostTrials(orders * (n - 1 + (n.bit_length() + n if proxy else 0)))


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
