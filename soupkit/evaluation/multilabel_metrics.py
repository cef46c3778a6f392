"""Metrics of multi-label tasks: how well each class's images are ranked before all others."""

import numpy as np

from soupkit.evaluation.intervals import RESAMPLES, bootstrap
from soupkit.evaluation.metrics import METRICS, Estimate, Metric
from soupkit.evaluation.outcomes import Ranking

_MANY = 10_000_000  # images x classes from which on a fifth of the resamples has to do


def mean_average_precision(ranking: Ranking) -> Estimate:
    """Return the mean over the classes that occur of their average precision.

    A class's average precision is the mean, over its images, of the share of its images among all that rank no lower
    than this one by their score. The interval is a percentile bootstrap over images.
    """
    n = ranking.n
    occurring = np.flatnonzero(ranking.labels.any(axis=0))
    orders = [np.argsort(-ranking.scores[:, c], kind="stable") for c in occurring]
    truths = [ranking.labels[order, c] for order, c in zip(orders, occurring, strict=True)]

    def value(weights: np.ndarray) -> float:
        precisions = []
        for order, truth in zip(orders, truths, strict=True):
            ranked = np.cumsum(weights[order], dtype=float)
            right = np.cumsum(weights[order] * truth)
            if right[-1]:
                share = np.divide(right, ranked, out=np.zeros(n), where=ranked > 0)
                precisions.append((share * weights[order] * truth).sum() / right[-1])
        return float(np.mean(precisions)) if precisions else np.nan  # a resample of images without any label

    resamples = RESAMPLES if n * len(occurring) < _MANY else RESAMPLES // 5
    return Estimate(value(np.ones(n)), *bootstrap(value, n, resamples))


METRICS.add(
    Metric(
        "mean_average_precision", "multilabel", mean_average_precision, "mean over classes of their average precision",
        hub_name="map", standard=True,
    ),
    module=__name__,
)  # fmt: skip
