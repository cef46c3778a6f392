"""Greedy search, then exchanges of one member for another ingredient."""

from collections.abc import Sequence

from soupkit.search.candidate import ScoredSoup, Trials, uniform
from soupkit.search.strategies.greedy import ADDING, greedy
from soupkit.search.strategies.table import STRATEGIES, Strategy


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
                if better := trials.trial(current, uniform([*rest, candidate]), "swap", candidate, strict=True):
                    current, improved = better, True
                    break
    return current


STRATEGIES.add(
    Strategy(
        "swap",
        swap,
        "greedy, then exchange members while the score rises",
        labels={**ADDING, "swap": "with {ref}"},
    ),
    module=__name__,
)
