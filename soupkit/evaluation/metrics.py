"""Numbers that say how good a model is, and how sure one can be."""

from math import sqrt

import numpy as np

_Z95 = 1.959963984540054  # the normal distribution's 97.5 % quantile
_RESAMPLES = 1000


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a proportion of `hits` in `n` (Wilson 1927), as fractions."""
    p = hits / n
    centre = p + _Z95**2 / (2 * n)
    half = _Z95 * sqrt(p * (1 - p) / n + _Z95**2 / (4 * n**2))
    scale = 1 + _Z95**2 / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """Return the two-sided p-value of McNemar's exact test (1947) on two models' hits, bool [N] each.

    Under the null hypothesis an image that only one of them gets right is as likely to be either's; 1 when there is
    none.
    """
    from scipy.stats import binomtest

    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second).pvalue)


def mean_per_class_recall(hits: np.ndarray, labels: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Return the mean over the classes that occur of the share of their images that are hits, and its 95 % interval.

    `hits` is bool [N], `labels` int64 [N]. The interval is a percentile bootstrap over the images of each class
    (Efron 1979): drawing n of them again, with replacement, gives a binomial number of hits.
    """
    totals = np.bincount(labels)
    there = totals > 0
    totals, found = totals[there], np.bincount(labels, weights=hits)[there]
    recall = found / totals
    generator = np.random.default_rng(0)
    draws = (generator.binomial(totals, recall, (_RESAMPLES, len(totals))) / totals).mean(axis=1)
    return float(recall.mean()), _percentiles(draws)


def mean_average_precision(scores: np.ndarray, labels: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Return the mean over the classes that occur of their average precision, and its 95 % interval.

    `scores` is float [N, classes], `labels` bool [N, classes]. A class's average precision is the mean, over its
    images, of the share of its images among all that rank no lower than this one by their score. The interval is a
    percentile bootstrap over images.
    """
    n = len(labels)
    there = np.flatnonzero(labels.any(axis=0))
    orders = [np.argsort(-scores[:, c], kind="stable") for c in there]
    truths = [labels[order, c] for order, c in zip(orders, there, strict=True)]

    def value(weights: np.ndarray) -> float:
        precisions = []
        for order, truth in zip(orders, truths, strict=True):
            seen = np.cumsum(weights[order])
            right = np.cumsum(weights[order] * truth)
            if right[-1]:
                share = np.divide(right, seen, out=np.zeros(n), where=seen > 0)
                precisions.append((share * weights[order] * truth).sum() / right[-1])
        return float(np.mean(precisions)) if precisions else np.nan  # a resample of images without any label

    generator = np.random.default_rng(0)
    resamples = _RESAMPLES if n * len(there) < 10_000_000 else _RESAMPLES // 5
    draws = [value(np.bincount(generator.integers(n, size=n), minlength=n).astype(float)) for _ in range(resamples)]
    return value(np.ones(n)), _percentiles(draws)


def mean_recall(
    image_of_caption: np.ndarray, caption_hits: np.ndarray, image_hits: np.ndarray
) -> tuple[float, tuple[float, float]]:
    """Return the mean of the two recalls of retrieval, and its 95 % interval.

    `caption_hits` bool [captions] says whether a caption finds its image, `image_hits` bool [images] whether an image
    finds one of its captions. The interval is a percentile bootstrap over images, each with its captions.
    """
    n = len(image_hits)
    captions = np.bincount(image_of_caption, minlength=n)
    found = np.bincount(image_of_caption, weights=caption_hits, minlength=n)

    def value(weights: np.ndarray) -> float:
        return float(((weights @ found) / (weights @ captions) + (weights @ image_hits) / weights.sum()) / 2)

    generator = np.random.default_rng(0)
    draws = [value(np.bincount(generator.integers(n, size=n), minlength=n)) for _ in range(_RESAMPLES)]
    return value(np.ones(n)), _percentiles(draws)


def _percentiles(draws: list[float]) -> tuple[float, float]:
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return float(low), float(high)
