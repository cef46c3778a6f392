"""Stopping rules on tables of hits: exact never changes a decision, sequential errs as seldom as it says."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soupkit.search.hit_score import hit_metric
from soupkit.search.stopping import Rule, open_rule
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


def pool_with_margins(seed: int, gain: float, n: int = 5000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The soup's hits and margins, and the hits of a candidate that moves every margin a little and by `gain`."""
    generator = np.random.default_rng(seed)
    margins = generator.normal(0.8, 1.2, n)
    return margins > 0, np.abs(margins), margins + generator.normal(gain, 0.1, n) > 0


def images_until_rejected(rule: Rule, hits: np.ndarray, step: int = 32) -> int | None:
    for start in range(0, len(hits), step):
        part = rule.order[start : start + step]
        if rule.sees(part, hits[part]):
            return start + len(part)
    return None


def test_likely_ends_bad_trials_on_the_least_sure_images_and_seldom_turns_a_good_one_away() -> None:
    metric = hit_metric(["acc1"], [np.zeros(5000, np.int64)])
    exact, likely, bad, good, lost = [], [], 0, 0, 0
    for seed in range(200):
        current, margins, hits = pool_with_margins(seed, gain=-0.03 if seed % 2 else 0.02)
        rules = [
            open_rule(name, current, np.zeros(5000), metric, strict=False, margins=margins)
            for name in ("exact", "likely")
        ]
        ends = [images_until_rejected(rule, hits) for rule in rules]
        if hits.sum() >= current.sum():
            good, lost = good + 1, lost + (ends[1] is not None)
            assert ends[0] is None
        else:
            assert ends[0] is not None and ends[1] is not None, "what is certain ends both"
            bad, exact, likely = bad + 1, [*exact, ends[0]], [*likely, ends[1]]
    assert bad > 80 and good > 80
    assert np.mean(likely) < 0.5 * np.mean(exact)
    assert lost <= 0.2 * good


def test_likely_weighs_images_as_the_metric_does_and_is_exact_where_no_margins_are_known() -> None:
    labels = np.repeat([0, 1], [4000, 40])  # two classes whose recall counts alike: an image of the second is worth 100
    metric = hit_metric(["mean_per_class_recall"], [labels])
    current, margins, hits = pool_with_margins(0, gain=0.0, n=4040)
    few = np.flatnonzero(labels)
    hits[few], current[few], margins[few] = True, False, 0.001 * np.arange(40)  # all of them are gained
    hits[~labels.astype(bool) & current & (margins < 0.3)] = False  # and hundreds of the others lost
    assert hits.mean() < current.mean() and metric.worth(hits) > metric.worth(current)
    rule = open_rule("likely", current, np.zeros(4040), metric, strict=False, margins=margins)
    assert images_until_rejected(rule, hits) is None
    without = open_rule("likely", current, np.zeros(4040), metric, strict=False)
    assert type(without) is type(open_rule("exact", current, np.zeros(4040), metric, strict=False))


@pytest.mark.parametrize("strict", [False, True])
def test_likely_takes_every_tie_that_no_image_speaks_against(strict: bool) -> None:
    metric = hit_metric(["acc1"], [np.zeros(600, np.int64)])
    current, margins, _ = pool_with_margins(1, 0.0, n=600)
    rule = open_rule("likely", current, np.zeros(600), metric, strict=strict, margins=margins)
    ended = images_until_rejected(rule, current.copy())
    assert ended is None if not strict else ended is not None, (
        "with strict a tie is rejected, at the latest when certain"
    )
