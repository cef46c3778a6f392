"""Mixing weights on tables of hits: never below the greedy soup, within the budget, the same for the same seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soupkit.errors import UsageError
from soupkit.search.candidate import ScoredSoup, Soup, mixture, uniform
from soupkit.search.hit_score import hit_metric
from soupkit.search.strategies.cma_es import all_blocks, mix, nearest_shares
from soupkit.search.strategies.greedy import greedy
from tests.search.tables import Tables


def pool(seed: int, models: int = 6, images: int = 400, draws: int = 0) -> Tables:
    """Ingredients of very different quality, so that equal weights are not the best ones."""
    generator = np.random.default_rng(seed)
    noise = generator.normal(0, generator.uniform(0.3, 2, (models, 1)), (models, images))
    margins = generator.normal(0.4, 1, images) + noise
    return Tables(margins, hit_metric(["acc1"], [np.zeros(images, np.int64)]), seed=draws)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=9))
def test_the_nearest_shares_are_on_the_simplex_and_nothing_on_it_is_nearer(values: list[float]) -> None:
    x = np.array(values)
    p = nearest_shares(x)
    assert (p >= 0).all() and p.sum() == pytest.approx(1)
    # On a convex set the nearest point is the one from which x lies in no corner's direction.
    assert max((x - p) @ (corner - p) for corner in np.eye(len(x))) <= 1e-9


def test_a_mixture_has_one_form() -> None:
    assert mixture([4, 1, 2], {"*": [0.5, 0, 0.5]}) == uniform([4, 2]) == Soup((4, 2))
    assert mixture([4, 1], {"a*": [0.7, 0.3], "*": [0.7, 0.3]}) == Soup((4, 1), (("*", (0.7, 0.3)),))
    both = mixture([4, 1, 2], {"a*": [0.7, 0.3, 0], "*": [1, 0, 0]})
    assert both == Soup((4, 1), (("a*", (0.7, 0.3)), ("*", (1.0, 0.0))))
    assert both.parameters == {"weight": {"a*": [0.7, 0.3], "*": [1.0, 0.0]}} and both.method == "linear"
    assert mixture([3, 5], {"*": [0.123456, 0.876544]}).weights == [0.1235, 0.8765]
    assert mixture([3, 5], {"*": [1, 1e-9]}) == uniform([3])
    assert uniform([1, 2]).weights == [0.5, 0.5] and uniform([1, 2]).parameters == {}


@pytest.mark.parametrize("blocks", [(), ("visual.*",)])
def test_the_best_mixture_is_never_below_the_greedy_soup_and_mostly_above(blocks: tuple[str, ...]) -> None:
    above = 0
    for seed in range(12):
        trials = pool(seed, draws=seed)
        first = greedy(trials, trials.order())
        trials.soups.clear()
        found = mix(trials, trials.order(), blocks=blocks, budget=60)
        measured = [s for s in trials.soups if s.shares is not None or len(s.members) > 1]
        # Looked up in the table anew, not taken from what the strategy says of it.
        assert trials.worth(found.soup) == max(trials.worth(first.soup), *(trials.worth(s) for s in measured))
        above += trials.worth(found.soup) > trials.worth(first.soup)
    assert above >= 8


def test_no_more_mixtures_are_tried_than_the_budget_and_the_seed_decides_which() -> None:
    found: dict[tuple[int, int], list[Soup]] = {}
    state = np.random.get_state()[1].copy()  # type: ignore[union-attr]
    for budget, seed, again in ((25, 0, 0), (25, 0, 1), (25, 1, 0), (7, 0, 0), (1, 0, 0)):
        trials = pool(3, draws=seed)
        greedy(trials, trials.order())
        own = len(trials.soups)
        trials.soups.clear()
        mix(trials, trials.order(), budget=budget)
        soups = trials.soups[own:]
        assert len(soups) == budget
        assert found.setdefault((budget, seed), soups) == soups, again
    assert found[25, 0] != found[25, 1] and found[7, 0] == found[25, 0][:7] and found[1, 0] == found[25, 0][:1]
    assert (np.random.get_state()[1] == state).all()  # type: ignore[union-attr]


def test_it_ends_before_its_budget_when_steps_no_longer_matter() -> None:
    trials = pool(5, models=3)
    found = mix(trials, trials.order(), budget=5000)
    assert len(trials.soups) < 4000 and isinstance(found, ScoredSoup)


def test_blocks_cover_every_tensor_and_each_has_some() -> None:
    names = ["visual.conv1.weight", "visual.proj", "text_projection", "logit_scale"]
    assert all_blocks((), names) == ("*",)
    assert all_blocks(("visual.*",), names) == ("visual.*", "*")
    assert all_blocks(("visual.*", "text*", "logit_scale"), names) == ("visual.*", "text*", "logit_scale")
    for patterns, words in (
        (("visual.*", "visual.proj"), "matches no tensor"),
        (("audio.*",), "matches no tensor"),
        (("visual.*", "visual.*"), "twice"),
    ):
        with pytest.raises(UsageError, match=words):
            all_blocks(patterns, names)
