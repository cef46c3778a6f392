"""Metrics against scipy, scikit-learn and arithmetic by hand."""

from math import comb

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, balanced_accuracy_score

from soupkit.evaluation.metrics import mcnemar, mean_average_precision, mean_per_class_recall, mean_recall, wilson


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


def test_recall_is_that_of_scikit_learn_and_its_interval_covers_the_truth() -> None:
    truth, covered = np.array([0.9, 0.5, 0.7]), 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        labels = generator.integers(0, 3, 300)
        hits = generator.random(300) < truth[labels]
        value, (low, high) = mean_per_class_recall(hits, labels)
        assert value == pytest.approx(balanced_accuracy_score(labels, np.where(hits, labels, (labels + 1) % 3)))
        covered += low <= truth.mean() <= high
    assert covered >= 180  # 95 % of 200 is 190; 180 is three deviations below


def test_classes_without_images_do_not_count() -> None:
    assert mean_per_class_recall(np.array([True, False]), np.array([0, 5]))[0] == 0.5


def test_average_precision_is_that_of_scikit_learn() -> None:
    generator = np.random.default_rng(3)
    labels = generator.random((80, 5)) < 0.3
    labels[:, 4] = False
    scores = generator.normal(size=(80, 5)) + labels
    value, (low, high) = mean_average_precision(scores, labels)
    assert value == pytest.approx(average_precision_score(labels[:, :4], scores[:, :4], average="macro"))
    assert low < value < high


def test_precision_of_labels_so_rare_that_resamples_miss_them_has_an_interval() -> None:
    value, (low, high) = mean_average_precision(np.array([[0.3], [0.2]]), np.array([[True], [False]]))
    assert value == 1 and 0 <= low <= high == 1


def test_mean_recall_weighs_captions_and_images_alike() -> None:
    owner = np.array([0, 0, 0, 1])
    value, (low, high) = mean_recall(owner, np.array([True, True, False, False]), np.array([True, False]))
    assert value == (2 / 4 + 1 / 2) / 2
    assert low <= value <= high
