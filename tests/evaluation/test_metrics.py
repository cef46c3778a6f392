"""Every metric of the table against scikit-learn or arithmetic by hand, and the intervals against scipy."""

from collections.abc import Callable
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score

from soupkit.evaluation.calibration_metrics import CALIBRATION
from soupkit.evaluation.classification_metrics import mean_per_class_recall
from soupkit.evaluation.intervals import mcnemar, wilson
from soupkit.evaluation.kinds import KINDS
from soupkit.evaluation.metrics import METRICS
from soupkit.evaluation.multilabel_metrics import mean_average_precision
from soupkit.evaluation.outcomes import RECALLS, Associations, Hits, Outcome, Ranking, Retrieval
from soupkit.evaluation.retrieval_metrics import recall


def some_hits(generator: np.random.Generator) -> Hits:
    labels = generator.integers(0, 9, 120)
    labels[labels == 4] = 5  # a class without an image
    top1 = generator.random(120) < 0.3 + 0.05 * labels
    predicted = np.where(top1, labels, (labels + generator.integers(1, 9, 120)) % 9)
    return Hits(top1, top1 | (generator.random(120) < 0.4), labels, predicted, generator.integers(3, 7, 120))


def some_ranking(generator: np.random.Generator) -> Ranking:
    labels = generator.random((80, 5)) < 0.3
    labels[:, 4] = False
    return Ranking(generator.normal(size=(80, 5)) + labels, labels)


def some_retrieval(generator: np.random.Generator) -> Retrieval:
    owner = np.sort(np.concatenate([np.arange(40), generator.integers(0, 40, 60)]))
    depths = (generator.integers(0, 15, 100), generator.integers(0, 15, 40))
    caption_hits, image_hits = (np.stack([depth < k for k in RECALLS], axis=1) for depth in depths)
    return Retrieval(caption_hits, image_hits, owner)


def some_games(generator: np.random.Generator) -> Associations:
    return Associations(generator.choice([5, 6, 10, 12], 60), generator.random(60))


def worst(hits: np.ndarray, groups: np.ndarray, *left_out: int) -> float:
    return min(hits[groups == g].mean() for g in set(groups.tolist()) - set(left_out))


# What every outcome of a kind looks like, and each metric done again by other means.
OUTCOMES: dict[str, Callable[[np.random.Generator], Outcome]] = {
    "classification": some_hits,
    "multilabel": some_ranking,
    "retrieval": some_retrieval,
    "associations": some_games,
}
REFERENCES: dict[str, Callable[[Any], float]] = {
    "acc1": lambda hits: sum(hits.top1.tolist()) / 120,
    "acc5": lambda hits: sum(hits.top5.tolist()) / 120,
    "mean_per_class_recall": lambda hits: balanced_accuracy_score(
        hits.labels, np.where(hits.top1, hits.labels, (hits.labels + 1) % 9)
    ),
    "f1_macro": lambda hits: f1_score(hits.labels, hits.predicted, labels=np.unique(hits.labels), average="macro"),
    "acc_wg": lambda hits: worst(hits.top1, hits.groups),
    "acc_worst_region": lambda hits: worst(hits.top1, hits.groups),
    "acc_worst_region_without_other": lambda hits: worst(hits.top1, hits.groups, 5),
    "acc_top5_wg": lambda hits: worst(hits.top5, hits.groups),
    "avg_jaccard_score": lambda games: games.jaccard.mean(),
    "jaccard_score_5_6": lambda games: games.jaccard[games.candidates < 10].mean(),
    "jaccard_score_10_12": lambda games: games.jaccard[games.candidates >= 10].mean(),
    **{f"jaccard_score_{k}": lambda g, k=k: g.jaccard[g.candidates == k].mean() for k in (5, 6, 10, 12)},
    "mean_average_precision": lambda ranking: average_precision_score(
        ranking.labels[:, :4], ranking.scores[:, :4], average="macro"
    ),
    "mean_recall@1": lambda r: (r.caption_hits[:, 0].sum() / 100 + r.image_hits[:, 0].sum() / 40) / 2,
    **{f"image_retrieval_recall@{k}": lambda r, i=i: r.caption_hits[:, i].sum() / 100 for i, k in enumerate(RECALLS)},
    **{f"text_retrieval_recall@{k}": lambda r, i=i: r.image_hits[:, i].sum() / 40 for i, k in enumerate(RECALLS)},
}


@pytest.mark.parametrize("name", [name for name in METRICS if name not in (*CALIBRATION, "entropy")])
def test_a_metric_is_its_independent_reference(name: str) -> None:
    """Those of probabilities have theirs in test_calibration."""
    assert name in REFERENCES, f"the metric {name} has no independent reference in this test"
    metric = METRICS[name]
    for seed in range(3):
        outcome = OUTCOMES[metric.kind](np.random.default_rng(seed))
        estimate = metric.compute(outcome)
        assert estimate is not None
        assert estimate.value == pytest.approx(REFERENCES[name](outcome), abs=1e-12)
        assert estimate.low is not None and estimate.high is not None
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
        assert estimate.high - estimate.low < 0.5


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if metric.sums_hits])
def test_a_metric_that_sums_hits_is_the_sum_of_what_they_are_worth(name: str) -> None:
    metric, hits = METRICS[name], some_hits(np.random.default_rng(1))
    assert metric.hit_denominators is not None
    estimate = metric.compute(hits)
    assert estimate is not None
    worth = 1 / metric.hit_denominators(hits.labels)
    assert worth[hits.top1].sum() == pytest.approx(estimate.value, abs=1e-12)
    assert worth.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_main_metric_of_a_kind_is_in_the_table_and_reported(kind: str) -> None:
    assert METRICS[KINDS[kind].metric].kind == kind
    assert METRICS[KINDS[kind].metric].standard


def test_the_documentation_lists_the_table() -> None:
    text = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    for name, metric in METRICS.items():
        assert f"| `{name}` | {metric.kind} | {metric.summary} |" in text


def test_top_5_of_four_classes_does_not_exist() -> None:
    assert METRICS["acc5"].compute(Hits(np.array([True]), None, np.array([0]))) is None


@pytest.mark.parametrize(("hits", "n"), [(0, 7), (7, 7), (40_050, 50_000), (1, 2)])
def test_wilson_is_scipys(hits: int, n: int) -> None:
    interval = binomtest(hits, n).proportion_ci(0.95, "wilson")
    assert wilson(hits, n) == pytest.approx((interval.low, interval.high), abs=1e-12)


def test_mcnemar_is_the_two_sided_sign_test_on_the_images_that_differ() -> None:
    first = np.array([True] * 9 + [False] * 2 + [True] * 50)
    second = np.array([False] * 9 + [True] * 2 + [True] * 50)
    expected = 2 * sum(comb(11, k) for k in range(3)) / 2**11
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-12)
    assert mcnemar(second, first) == mcnemar(first, second)
    assert mcnemar(first, first) == 1.0


def test_the_interval_of_recall_covers_the_truth() -> None:
    truth, covered = np.array([0.9, 0.5, 0.7]), 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        labels = generator.integers(0, 3, 300)
        estimate = mean_per_class_recall(Hits(generator.random(300) < truth[labels], None, labels))
        covered += estimate.low <= truth.mean() <= estimate.high
    assert covered >= 180  # 95 % of 200 is 190; 180 is three deviations below


def test_classes_without_images_do_not_count() -> None:
    assert mean_per_class_recall(Hits(np.array([True, False]), None, np.array([0, 5]))).value == 0.5


def test_precision_of_labels_so_rare_that_resamples_miss_them_has_an_interval() -> None:
    estimate = mean_average_precision(Ranking(np.array([[0.3], [0.2]]), np.array([[True], [False]])))
    assert estimate.value == 1 and 0 <= estimate.low <= estimate.high == 1


def test_mean_recall_weighs_captions_and_images_alike() -> None:
    captions, images = np.array([[True], [True], [False], [False]]), np.array([[True], [False]])
    estimate = recall(1, 0.5, Retrieval(captions, images, np.array([0, 0, 0, 1])))
    assert estimate.value == (2 / 4 + 1 / 2) / 2
