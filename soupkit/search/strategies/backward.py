"""Backward elimination: from all ingredients, drop what hurts."""

from collections.abc import Sequence

from soupkit.search.candidate import ScoredSoup, Trials, uniform
from soupkit.search.strategies.table import STRATEGIES, MostTrials, Strategy


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
            if smaller := trials.trial(current, rest, "remove", candidate):
                current, dropped = smaller, True
    return current


def most_trials(n: int) -> MostTrials:
    """Return the trials of rounds that each drop one ingredient alone."""
    return MostTrials(n * (n + 1) // 2)


STRATEGIES.add(
    Strategy(
        "backward",
        backward,
        "start from all, drop what hurts",
        most_trials=most_trials,
        labels={"remove": "without {ref}"},
    ),
    module=__name__,
)
