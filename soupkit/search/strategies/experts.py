"""Soup of category experts (Maiti et al. 2025, "Souper-Model", https://arxiv.org/abs/2511.13254).

Tasks on which the ingredients' scores correlate form a group; the best ingredient of each group is its expert; the
experts' weights come from a grid.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import comb

import numpy as np

from soupkit.errors import UsageError
from soupkit.search.candidate import ScoredSoup, SearchInputs, Soup, Trials, mixture, uniform
from soupkit.search.strategies.cma_es import MIXING
from soupkit.search.strategies.shapley import known_subsets, shapley_shares
from soupkit.search.strategies.table import BUDGET, STRATEGIES, MostTrials, Strategy, StrategyOption

_FINEST = 10  # the paper's grid goes in tenths
_TABLE = 5  # up to so many experts, the uniform soup of every subset is scored in full: 26 soups


def experts(
    trials: Trials, order: Sequence[int], *, budget: int = BUDGET.default, correlation: float = 0.5
) -> ScoredSoup:
    """Group the tasks, mix the best ingredient of each group, and state the groups and each member's Shapley share."""
    values, refs = trials.ingredient_scores, trials.inputs.refs
    between = correlations(values)
    groups = trials.agree(group_tasks(between, correlation, most_groups(budget)))
    chosen = choose_experts(values, groups, order)
    best = mix_experts(trials, order, chosen, budget)
    scores = trials.by_members()
    shares = shapley_shares(best.members, scores)
    trials.state(
        groups=[
            {"tasks": [trials.inputs.tasks[t] for t in group], "expert": refs[expert]}
            for group, expert in zip(groups, chosen, strict=True)
        ],
        correlations=between.tolist(),
        shapley={
            "shares": [{"ref": refs[m], "share": shares[m]} for m in best.members],
            "subsets": 2 ** len(best.members) - 1,
            "scored": known_subsets(best.members, scores),
        },
    )
    return best


def correlations(values: np.ndarray) -> np.ndarray:
    """Return Pearson's correlations of the rows of `values` (float64 [tasks, ingredients]); 0 where one is constant."""
    centred = values - values.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1)
    scale = np.outer(lengths, lengths)
    correlation = np.divide(centred @ centred.T, scale, out=np.zeros_like(scale), where=scale > 1e-24)
    np.fill_diagonal(correlation, 1.0)
    return correlation.clip(-1, 1)


def group_tasks(correlation: np.ndarray, least: float, most: int) -> list[list[int]]:
    """Group tasks by average linkage: groups join while their mean correlation is at least `least`, or there are more
    than `most` of them. `correlation` is float64 [tasks, tasks]. Returns the groups in the order of their first tasks.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    if len(correlation) == 1:
        return [[0]]
    apart = 1 - (correlation + correlation.T) / 2
    np.fill_diagonal(apart, 0)
    tree = linkage(squareform(apart, checks=False), method="average")
    labels = fcluster(tree, 1 - least + 1e-12, criterion="distance")
    if labels.max() > most:
        labels = fcluster(tree, most, criterion="maxclust")
    return sorted(np.flatnonzero(labels == label).tolist() for label in sorted(set(labels)))


def choose_experts(values: np.ndarray, groups: Sequence[Sequence[int]], order: Sequence[int]) -> list[int]:
    """Return the ingredient with the highest mean score on each group, the first of `order` among equal ones."""
    means = [values[list(group)].mean(axis=0) for group in groups]
    return [max(order, key=mean.__getitem__) for mean in means]


def most_groups(budget: int) -> int:
    """Return how many experts can be mixed at least in halves with `budget` mixtures."""
    k = 1
    while comb(k + 1, 2) <= budget:  # the pairs of k + 1 experts
        k += 1
    return k


def mix_experts(trials: Trials, order: Sequence[int], experts: Sequence[int], budget: int) -> ScoredSoup:
    """Try mixtures of `experts`, `budget` at most; each is kept that scores higher than the best before it.

    It starts from the best ingredient. The experts' uniform soup comes first, with those of all their subsets where
    they are few: they are scored in full, for the Shapley shares. Then the finest grid that the budget allows, tenths
    at most, the even mixtures first.
    """
    best = trials.start(uniform(order[:1]))
    chosen = [m for m in order if m in experts]
    if len(chosen) == 1:
        return best
    table = subsets(chosen) if len(chosen) <= _TABLE else [uniform(chosen)]
    table = table[-budget:]  # of a small budget the larger soups have it
    grid = [soup for soup in grid_of(chosen, budget - len(table)) if soup not in table]
    trials.expect(len(table) + len(grid))
    for soup in table:
        scored = trials.measure(best, soup, "mix")
        best = scored if scored.worth > best.worth else best
    for soup in grid:
        best = trials.trial(best, soup, "mix", None, strict=True) or best
    return best


def subsets(members: Sequence[int]) -> list[Soup]:
    """Return the uniform soups of two and more of `members`, small ones first."""
    return [uniform(some) for n in range(2, len(members) + 1) for some in combinations(members, n)]


def grid_of(members: Sequence[int], budget: int) -> list[Soup]:
    """Return the mixtures of the finest grid on the simplex with at most `budget` of them, even ones first.

    An ingredient alone is no mixture.
    """
    k = len(members)
    steps = max((n for n in range(1, _FINEST + 1) if comb(n + k - 1, k - 1) - k <= budget), default=1)
    points = sorted(compositions(steps, k), key=lambda parts: (sum(p * p for p in parts), parts))
    return [mixture(members, {"*": [p / steps for p in parts]}) for parts in points if max(parts) < steps]


def compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Yield every way to write `total` as a sum of so many whole numbers from 0 on, in their order."""
    if parts == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in compositions(total - first, parts - 1):
            yield (first, *rest)


def _check(inputs: SearchInputs, *, budget: int, correlation: float) -> None:
    if len(inputs.tasks) < 2:
        raise UsageError("names one task, whose expert is one ingredient", "--task", "name several tasks to select on")


def most_trials(n: int, *, budget: int, correlation: float) -> MostTrials:
    """Return the mixtures that are tried: nothing else is."""
    return MostTrials(budget, mixtures=budget)


STRATEGIES.add(
    Strategy(
        "experts",
        experts,
        "group tasks by how the ingredients' scores on them correlate, mix the best ingredient of each group",
        options=(
            BUDGET,
            StrategyOption(
                "correlation", float, 0.5, "tasks that correlate so much are a group", low=-1, high=1, metavar="R"
            ),
        ),
        most_trials=most_trials,
        labels=MIXING,
        check=_check,
    ),
    module=__name__,
)
