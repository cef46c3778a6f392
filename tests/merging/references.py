"""What every merge method computes, written a second time: in float64, with numpy, from the papers' formulas.

A case is a way to call a method; a method of soupkit's own without a case fails `test_methods.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray
Reference = Callable[..., Array]


@dataclass(frozen=True)
class Case:
    """One way to call `method`: with so many ingredients, with a base or without, with these parameters.

    `reference(ingredients, base, **parameters)` gets one tensor of each in its shape, as float64.
    """

    method: str
    reference: Reference
    parameters: dict[str, Any] = field(default_factory=dict)
    ingredients: int = 3
    base: bool = False
    symmetric: bool = False

    def __str__(self) -> str:
        words = [f"{k}={v}" for k, v in self.parameters.items()]
        return "-".join([self.method, *words, *(["base"] if self.base else [])])


def mean(xs: Sequence[Array], base: Array | None) -> Array:
    return np.mean(xs, axis=0)


def weighted(xs: Sequence[Array], base: Array | None, weight: Sequence[float], normalize: bool = True) -> Array:
    total = sum(w * x for w, x in zip(weight, xs, strict=True))
    return total / sum(weight) if normalize else total


def between(xs: Sequence[Array], base: Array, alpha: float = 0.5) -> Array:
    return (1 - alpha) * base + alpha * np.mean(xs, axis=0)


def added(xs: Sequence[Array], base: Array, scale: Sequence[float] | float = 0.4) -> Array:
    scales = np.broadcast_to(scale, len(xs))
    return base + sum(s * (x - base) for s, x in zip(scales, xs, strict=True))


def great_circle(xs: Sequence[Array], base: Array | None, t: float = 0.5) -> Array:
    a, b = xs
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    cosine = np.vdot(a, b) / lengths if lengths else 1.0
    if abs(cosine) > 0.9995:
        return (1 - t) * a + t * b
    angle = np.arccos(cosine)
    return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)


CASES = [
    Case("uniform", mean, symmetric=True),
    Case("linear", weighted, {"weight": [3, 1, 0.5]}),
    Case("linear", weighted, {"weight": [0.3, -0.1, 0.5], "normalize": False}),
    Case("interpolate", between, {"alpha": 0.3}, base=True, symmetric=True),
    Case("task_arithmetic", added, {"scale": [0.3, 0.6, -0.2]}, base=True),
    Case("task_arithmetic", added, base=True, symmetric=True),
    Case("slerp", great_circle, {"t": 0.3}, ingredients=2),
]
