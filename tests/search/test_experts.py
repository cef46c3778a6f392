"""Category experts: tasks are grouped, experts chosen and mixed as stated; Shapley shares are exact on full tables."""

from fractions import Fraction
from itertools import permutations, product
from math import comb, factorial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soupkit.search.candidate import uniform
from soupkit.search.hit_score import hit_metric
from soupkit.search.strategies.experts import (
    choose_experts,
    compositions,
    correlations,
    grid_of,
    group_tasks,
    mix_experts,
    most_groups,
    subsets,
)
from soupkit.search.strategies.shapley import known_subsets, shapley_shares
from tests.search.tables import Tables


def test_correlations_are_those_of_numpy_and_0_where_a_task_tells_no_ingredients_apart() -> None:
    values = np.random.default_rng(0).random((5, 7))
    assert correlations(values) == pytest.approx(np.corrcoef(values), abs=1e-12)
    values[2] = 0.75
    found = correlations(values)
    assert found[2].tolist() == [0, 0, 1, 0, 0]


def test_tasks_that_correlate_are_grouped() -> None:
    generator = np.random.default_rng(1)
    kinds = generator.normal(size=(3, 10))
    values = np.stack([kinds[k] + 0.2 * generator.normal(size=10) for k in (0, 1, 0, 2, 1, 0)])
    correlation = correlations(values)
    assert group_tasks(correlation, 0.5, 9) == [[0, 2, 5], [1, 4], [3]]
    assert group_tasks(correlation, -1, 9) == [[0, 1, 2, 3, 4, 5]]
    assert len(group_tasks(correlation, 1, 9)) == 6
    assert len(group_tasks(correlation, 1, 4)) == 4  # no more than can be mixed
    assert group_tasks(np.ones((1, 1)), 0.5, 9) == [[0]]
    assert group_tasks(np.ones((2, 2)), 1, 9) == [[0, 1]]


def test_the_expert_of_a_group_has_its_highest_mean_score() -> None:
    values = np.array([[0.5, 0.9, 0.7], [0.5, 0.1, 0.7], [0.9, 0.2, 0.3], [0.4, 0.4, 0.4]])
    assert choose_experts(values, [[0, 1], [2], [0], [3]], [2, 0, 1]) == [2, 0, 1, 2]


@pytest.mark.parametrize(("k", "budget"), [(2, 100), (3, 100), (3, 20), (4, 60), (5, 100), (13, 100)])
def test_the_grid_is_the_finest_that_the_budget_allows(k: int, budget: int) -> None:
    members = list(range(10, 10 + k))
    grid = grid_of(members, budget)
    sizes = {n: comb(n + k - 1, k - 1) - k for n in range(1, 11)}
    steps = max(n for n, size in sizes.items() if size <= budget)
    assert len(grid) == sizes[steps] == len(set(grid)) <= budget
    assert all(sum(soup.weights) == pytest.approx(1, abs=1e-3) for soup in grid)  # type: ignore[arg-type]
    evenness = [sum((w / sum(s.weights)) ** 2 for w in s.weights) for s in grid]  # type: ignore[union-attr, arg-type]
    assert evenness == pytest.approx(sorted(evenness), abs=1e-3)


def test_every_way_to_divide_a_total_is_there_once() -> None:
    found = list(compositions(4, 3))
    assert sorted(found) == [p for p in product(range(5), repeat=3) if sum(p) == 4]


def test_as_many_groups_are_made_as_can_be_mixed_in_halves() -> None:
    for budget in (1, 2, 3, 10, 100):
        k = most_groups(budget)
        assert comb(k, 2) <= budget < comb(k + 1, 2)


def pool(seed: int, models: int, rule: str) -> Tables:
    generator = np.random.default_rng(seed)
    margins = generator.normal(0.3, 1, 300) + generator.normal(0, 0.8, (models, 300))
    return Tables(margins, hit_metric(["acc1"], [np.zeros(300, np.int64)]), rule)


@pytest.mark.parametrize("seed", range(5))
def test_the_best_mixture_of_the_experts_is_found_by_every_rule(seed: int) -> None:
    trials = pool(seed, 6, "none")
    order = trials.order()
    experts = [order[1], order[3], order[4]]
    found = mix_experts(trials, order, experts, 40)
    candidates = [uniform(order[:1]), *subsets(experts), *grid_of(experts, 36)]
    assert trials.worth(found.soup) == max(map(trials.worth, candidates)) and len(trials.soups) <= 40
    exact = pool(seed, 6, "exact")
    assert mix_experts(exact, order, experts, 40).soup == found.soup
    assert exact.images < trials.images


def test_one_expert_for_everything_is_the_best_ingredient() -> None:
    trials = pool(0, 4, "exact")
    assert mix_experts(trials, trials.order(), [trials.order()[0]] * 3, 40).members == (trials.order()[0],)
    assert trials.trials == 0


def exact_shapley(n: int, table: dict[frozenset[int], Fraction]) -> list[Fraction]:
    """Shapley's own words: what each adds when it joins, averaged over every order of joining."""
    totals = [Fraction(0)] * n
    for order in permutations(range(n)):
        for at, i in enumerate(order):
            before = frozenset(order[:at])
            totals[i] += table[before | {i}] - (table[before] if before else 0)
    return [total / factorial(n) for total in totals]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(0, 10**6))
def test_shares_are_exact_on_a_full_table(n: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    table = {
        frozenset(i for i in range(n) if bits >> i & 1): Fraction(int(generator.integers(0, 1000)), 1000)
        for bits in range(1, 2**n)
    }
    found = shapley_shares(range(n), {some: float(value) for some, value in table.items()})
    assert [found[i] for i in range(n)] == pytest.approx([float(x) for x in exact_shapley(n, table)], abs=1e-12)
    assert sum(found.values()) == pytest.approx(float(table[frozenset(range(n))]), abs=1e-12)
    assert known_subsets(range(n), dict.fromkeys(table, 0.0)) == 2**n - 1


def test_a_subset_that_was_not_scored_counts_as_the_best_scored_one_within_it() -> None:
    known = {frozenset(some): value for some, value in (((0,), 0.5), ((1,), 0.6), ((2,), 0.2), ((0, 1, 2), 0.9))}
    full = {**known, frozenset({0, 1}): 0.6, frozenset({0, 2}): 0.5, frozenset({1, 2}): 0.6}
    table = {some: Fraction(value).limit_denominator(100) for some, value in full.items()}
    found = shapley_shares([0, 1, 2], known)
    assert [found[i] for i in range(3)] == pytest.approx([float(x) for x in exact_shapley(3, table)], abs=1e-12)
    assert known_subsets([0, 1, 2], {**known, frozenset({3}): 0.1}) == 4
