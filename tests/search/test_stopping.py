"""Stopping rules on tables of hits: exact never changes a decision, sequential errs as seldom as it says."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soupkit.search.hit_score import hit_metric
from soupkit.search.stopping import open_rule
from soupkit.search.strategies.greedy import greedy
from soupkit.search.strategies.table import STRATEGIES
from tests.search.tables import Tables

SMALL = {"orders": 3, "budget": 12}  # so that many pools can be tried


def table(seed: int, models: int, images: tuple[int, ...], metrics: tuple[str, ...], **how: object) -> Tables:
    generator = np.random.default_rng(seed)
    margins = generator.normal(0.4, 1, sum(images)) + generator.normal(0, 0.7, (models, sum(images)))
    labels = [generator.integers(0, 4, n) for n in images]
    return Tables(margins, hit_metric(metrics, labels), **how)  # type: ignore[arg-type]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    models=st.integers(2, 7),
    images=st.lists(st.integers(1, 60), min_size=1, max_size=3),
    classes=st.booleans(),
    strict=st.booleans(),
    step=st.integers(1, 40),
    strategy=st.sampled_from(list(STRATEGIES)),
)
def test_exact_finds_the_soup_of_a_full_search_and_scores_no_more_images(
    seed: int, models: int, images: list[int], classes: bool, strict: bool, step: int, strategy: str
) -> None:
    metrics = tuple("mean_per_class_recall" if classes and i % 2 else "acc1" for i in range(len(images)))
    row = STRATEGIES[strategy]
    options = row.settle({o.name: least for o in row.options if (least := SMALL.get(o.name)) is not None})
    pools = [table(seed, models, tuple(images), metrics, rule=r, strict=strict, step=step) for r in ("none", "exact")]
    found = [row.run(pool, pool.order(), **options) for pool in pools]
    assert found[0].members == found[1].members
    assert found[0].worth == found[1].worth
    assert pools[0].trials == pools[1].trials
    assert pools[1].images <= pools[0].images


@pytest.mark.parametrize("metrics", [("acc1",), ("mean_per_class_recall",), ("acc1", "mean_per_class_recall", "acc1")])
def test_worth_is_the_metric_in_exact_fractions(metrics: tuple[str, ...]) -> None:
    generator = np.random.default_rng(1)
    labels = [generator.integers(0, 5, n) for n in (37, 101, 64)[: len(metrics)]]
    hits = [generator.random(len(x)) < 0.6 for x in labels]
    want = Fraction(0)
    for metric, classes, right in zip(metrics, labels, hits, strict=True):
        if metric == "acc1":
            want += Fraction(int(right.sum()), len(right))
        else:
            there = np.unique(classes)
            want += sum(Fraction(int(right[classes == c].sum()), int((classes == c).sum())) for c in there) / len(there)
    metric = hit_metric(metrics, labels)
    assert Fraction(metric.worth(np.concatenate(hits)), metric.scale) == want / len(metrics)
    every = np.ones(sum(map(len, labels)), dtype=bool)
    assert metric.worth(every) == metric.scale


def rejections(difference: int, discordant: int, rate: float, runs: int, weights: tuple[str, ...] = ("acc1",)) -> float:
    """How often the sequential rule alone turns a candidate away that gains `difference` images in all."""
    n, rejected = 1200, 0
    for seed in range(runs):
        generator = np.random.default_rng([7, seed])
        current = generator.random(n) < 0.7
        hits = current.copy()
        losses = (discordant - difference) // 2
        hits[generator.choice(np.flatnonzero(current), losses, replace=False)] = False
        hits[generator.choice(np.flatnonzero(~current), losses + difference, replace=False)] = True
        # Disagreement that knows something of where the differences are, as that of the ingredients does.
        disagreement = np.clip(0.3 * (hits != current) + 0.2 * generator.random(n), 0, 0.5)
        metric = hit_metric(["acc1"], [np.zeros(n, np.int64)])
        rule = open_rule("sequential", current, disagreement, metric, strict=False, error_rate=rate, seed=(seed,))
        rejected += any(rule.sees(part, hits[part]) for part in np.split(rule.order, n // 60))
    return rejected / runs


@pytest.mark.parametrize(("rate", "discordant"), [(0.05, 120), (0.2, 40), (0.2, 300)])
def test_a_candidate_as_good_as_the_soup_is_turned_away_no_more_often_than_stated(rate: float, discordant: int) -> None:
    runs = 400
    # Three standard deviations above the rate: a rule that kept the bound fails this with a chance of 1 in 700.
    assert rejections(0, discordant, rate, runs) <= rate + 3 * (rate * (1 - rate) / runs) ** 0.5


def test_a_clearly_worse_candidate_is_turned_away_every_time() -> None:
    assert rejections(-60, 120, 0.05, 60) == 1.0


def test_sequential_needs_fewer_images_than_exact() -> None:
    images = {}
    for rule in ("none", "exact", "sequential"):
        pool = table(3, 12, (4000,), ("acc1",), rule=rule, strict=False, step=32)
        greedy(pool, pool.order())
        images[rule] = pool.images
    assert images["sequential"] < images["exact"] < images["none"]


@pytest.mark.parametrize("rule", ["exact", "sequential"])
def test_looking_where_the_ingredient_differs_from_the_soup_saves_images(rule: str) -> None:
    found = []
    for pull in (False, True):
        pool = table(3, 12, (4000,), ("acc1",), rule=rule, strict=False, step=32, pull=pull)
        found.append((greedy(pool, pool.order()).members, pool.images))
    assert found[0][0] == found[1][0]
    assert found[1][1] < found[0][1]
