"""How sure one can be of a score: 95 % intervals, and the paired test of two models."""

from collections.abc import Callable, Sequence
from math import sqrt

import numpy as np

_Z95 = 1.959963984540054  # the normal distribution's 97.5 % quantile
RESAMPLES = 1000


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a proportion of `hits` in `n` (Wilson 1927), as fractions."""
    p = hits / n
    centre = p + _Z95**2 / (2 * n)
    half = _Z95 * sqrt(p * (1 - p) / n + _Z95**2 / (4 * n**2))
    scale = 1 + _Z95**2 / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def exact_bounds(hits: np.ndarray, n: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Return bounds of proportions of `hits` in `n`, int64 [k] each, none of which errs in more than `alpha` of all
    cases (Clopper and Pearson 1934): float64 [k] lower ones, and upper ones."""
    from scipy.stats import beta

    low, high = beta.ppf(alpha, hits, n - hits + 1), beta.ppf(1 - alpha, hits + 1, n - hits)
    return np.where(hits == 0, 0.0, low), np.where(hits == n, 1.0, high)


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


def bootstrap(value: Callable[[np.ndarray], float], n: int, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Return the 95 % percentile interval of a statistic over `n` images (Efron 1979).

    `value` takes how often each image was drawn, int64 [n]. The draws are the same in every call.
    """
    generator = np.random.default_rng(0)
    return percentiles([value(np.bincount(generator.integers(n, size=n), minlength=n)) for _ in range(resamples)])


def percentiles(draws: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return between which values 95 % of `draws` lie; draws that are NaN do not count."""
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return float(low), float(high)
