"""Numbers that say how good a model is, and how sure one can be."""

from math import sqrt

_Z95 = 1.959963984540054  # the normal distribution's 97.5 % quantile


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a proportion of `hits` in `n` (Wilson 1927), as fractions."""
    p = hits / n
    centre = p + _Z95**2 / (2 * n)
    half = _Z95 * sqrt(p * (1 - p) / n + _Z95**2 / (4 * n**2))
    scale = 1 + _Z95**2 / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)
