"""Metrics of classification: what share of the images a model gets right."""

import numpy as np

from soupkit.evaluation.intervals import RESAMPLES, percentiles, wilson
from soupkit.evaluation.metrics import METRICS, Estimate, Metric
from soupkit.evaluation.outcomes import Hits


def _share(hits: np.ndarray) -> Estimate:
    count = int(hits.sum())
    return Estimate(count / len(hits), *wilson(count, len(hits)))


def accuracy(hits: Hits) -> Estimate:
    """Return the share of images whose class came first; the interval is Wilson's."""
    return _share(hits.top1)


def top5_accuracy(hits: Hits) -> Estimate | None:
    """Return the share of images whose class was among the first five; None where there are fewer than five classes."""
    return None if hits.top5 is None else _share(hits.top5)


def mean_per_class_recall(hits: Hits) -> Estimate:
    """Return the mean over the classes that occur of the share of their images that are hits.

    The interval is a percentile bootstrap over the images of each class (Efron 1979): drawing n of them again, with
    replacement, gives a binomial number of hits.
    """
    totals = np.bincount(hits.labels)
    occurs = totals > 0
    totals, right = totals[occurs], np.bincount(hits.labels, weights=hits.top1)[occurs]
    recall = right / totals
    generator = np.random.default_rng(0)
    draws = (generator.binomial(totals, recall, (RESAMPLES, len(totals))) / totals).mean(axis=1)
    return Estimate(float(recall.mean()), *percentiles(draws))


def images(labels: np.ndarray) -> np.ndarray:
    """Return how many images there are, for each of them: one over it is what a hit adds to the accuracy."""
    return np.full(len(labels), len(labels), np.int64)


def images_of_the_class_times_classes(labels: np.ndarray) -> np.ndarray:
    """Return n_c C for each image, with n_c images in its class of the C that occur: one over it is what a hit adds to
    the mean recall."""
    totals = np.bincount(labels)
    return totals[labels].astype(np.int64) * int((totals > 0).sum())


METRICS.add(
    Metric(
        "acc1", "classification", accuracy, "share of images whose class comes first",
        hub_name="accuracy", standard=True, hit_denominators=images,
    ),
    module=__name__,
)  # fmt: skip
METRICS.add(
    Metric(
        "acc5", "classification", top5_accuracy, "share of images whose class is among the first five",
        hub_name="top-5 accuracy", standard=True,
    ),
    module=__name__,
)  # fmt: skip
METRICS.add(
    Metric(
        "mean_per_class_recall", "classification", mean_per_class_recall, "mean over classes of their images' accuracy",
        hub_name="recall", standard=True, hit_denominators=images_of_the_class_times_classes,
    ),
    module=__name__,
)  # fmt: skip
