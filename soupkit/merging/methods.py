"""The merge methods: each is one function of tensors, the engine does the rest. Importing them needs no torch."""

from collections.abc import Sequence
from math import acos, sin, sqrt
from typing import TYPE_CHECKING, Annotated

from soupkit.merging.papers import SLERP, SOUPS, TASK_ARITHMETIC, WISE_FT
from soupkit.merging.registry import Bounds, each, merge_method

if TYPE_CHECKING:
    from torch import Tensor

    from soupkit.merging.arithmetic import Arithmetic

_PARALLEL = (
    0.9995  # cosine beyond which slerp's formula divides by nearly nothing (Shoemake 1985 interpolates linearly)
)


@merge_method(paper=SOUPS)
def uniform(ops: "Arithmetic", ingredients: "Sequence[Tensor]", base: None) -> "Tensor":
    """The mean of the ingredients, the uniform soup."""
    return ops.mean(ingredients)


@merge_method(paper=SOUPS)
def linear(
    ops: "Arithmetic",
    ingredients: "Sequence[Tensor]",
    base: None,
    *,
    weight: Annotated[Sequence[float], Bounds(-1e6, 1e6), "share of each ingredient (--weight)"],
    normalize: Annotated[bool, "divide the weights by their sum"] = True,
) -> "Tensor":
    """The mean of the ingredients with a weight each."""
    if normalize and len(set(weight)) == 1:
        return ops.mean(ingredients)
    return ops.weighted_sum(ingredients, normalized(weight) if normalize else weight)


def normalized(weights: Sequence[float]) -> list[float]:
    """Divide `weights` by their sum, in float64."""
    total = sum(weights)
    return [w / total for w in weights]


@merge_method(paper=WISE_FT, base="needed", ingredients=(1, None))
def interpolate(
    ops: "Arithmetic",
    ingredients: "Sequence[Tensor]",
    base: "Tensor",
    *,
    alpha: Annotated[float, Bounds(0, 1), "0: the base; 1: the ingredients' mean"] = 0.5,
) -> "Tensor":
    """base + alpha (mean - base), WiSE-FT."""
    return ops.mean(ingredients).sub_(base).mul_(alpha).add_(base)


@merge_method(paper=TASK_ARITHMETIC, base="needed", ingredients=(1, None))
def task_arithmetic(
    ops: "Arithmetic",
    ingredients: "Sequence[Tensor]",
    base: "Tensor",
    *,
    scale: Annotated[Sequence[float], Bounds(-10, 10), "how much of each task vector is added"] = each(0.4),
) -> "Tensor":
    """base + sum of scale (ingredient - base)."""
    total = ops.copy(base)
    for ingredient, s in zip(ingredients, scale, strict=True):
        total.add_(ops.difference(ingredient, base).mul_(s))
        ops.release()
    return total


@merge_method(paper=SLERP, scope="tensor", ingredients=(2, 2))
def slerp(
    ops: "Arithmetic",
    ingredients: "Sequence[Tensor]",
    base: None,
    *,
    t: Annotated[float, Bounds(0, 1), "0: the first ingredient; 1: the second"] = 0.5,
) -> "Tensor":
    """The great circle between two models, tensor by tensor."""
    a, b = ingredients
    lengths = sqrt(ops.dot(a, a)) * sqrt(ops.dot(b, b))
    cosine = ops.dot(a, b) / lengths if lengths else 1.0
    if abs(cosine) > _PARALLEL:
        return ops.weighted_sum(ingredients, [1 - t, t])
    angle = acos(cosine)
    return ops.weighted_sum(ingredients, [sin((1 - t) * angle) / sin(angle), sin(t * angle) / sin(angle)])
