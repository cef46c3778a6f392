"""The merge methods. Each is one function of tensors; the engine does everything else."""

from collections.abc import Sequence
from math import acos, sin, sqrt

from torch import Tensor

from soupkit.merging.arithmetic import Arithmetic
from soupkit.merging.registry import Parameter, merge_method

_SOUPS = "https://arxiv.org/abs/2203.05482"
_PARALLEL = (
    0.9995  # cosine beyond which slerp's formula divides by nearly nothing (Shoemake 1985 interpolates linearly)
)


@merge_method("uniform", paper=_SOUPS)
def uniform(ops: Arithmetic, ingredients: Sequence[Tensor], base: None) -> Tensor:
    """Average the ingredients (uniform soup, Wortsman et al. 2022)."""
    return ops.mean(ingredients)


@merge_method(
    "linear",
    paper=_SOUPS,
    weight=Parameter(None, -1e6, 1e6, "share of each ingredient", per_ingredient=True),
    normalize=Parameter(1, 0, 1, "1: divide the weights by their sum; 0: use them as they are"),
)
def linear(
    ops: Arithmetic, ingredients: Sequence[Tensor], base: None, *, weight: Sequence[float], normalize: float
) -> Tensor:
    """Average the ingredients with a weight each."""
    if normalize and len(set(weight)) == 1:
        return ops.mean(ingredients)
    return ops.weighted_sum(ingredients, normalized(weight) if normalize else weight)


def normalized(weights: Sequence[float]) -> list[float]:
    """Divide `weights` by their sum, in float64."""
    total = sum(weights)
    return [w / total for w in weights]


@merge_method(
    "interpolate",
    base=True,
    ingredients=(1, None),
    paper="https://arxiv.org/abs/2109.01903",
    alpha=Parameter(0.5, 0, 1, "0: the base; 1: the ingredients' mean"),
)
def interpolate(ops: Arithmetic, ingredients: Sequence[Tensor], base: Tensor, *, alpha: float) -> Tensor:
    """Go from the base towards the mean of the ingredients (WiSE-FT, Wortsman et al. 2021)."""
    return ops.mean(ingredients).sub_(base).mul_(alpha).add_(base)


@merge_method(
    "task_arithmetic",
    base=True,
    ingredients=(1, None),
    paper="https://arxiv.org/abs/2212.04089",
    scale=Parameter(0.4, -10, 10, "how much of each task vector is added", per_ingredient=True),
)
def task_arithmetic(ops: Arithmetic, ingredients: Sequence[Tensor], base: Tensor, *, scale: Sequence[float]) -> Tensor:
    """Add the scaled task vectors of the ingredients to the base (Ilharco et al. 2022)."""
    total = ops.copy(base)
    for ingredient, s in zip(ingredients, scale, strict=True):
        total.add_(ops.difference(ingredient, base).mul_(s))
        ops.release()
    return total


@merge_method(
    "slerp",
    scope="tensor",
    ingredients=(2, 2),
    paper="https://doi.org/10.1145/325165.325242",
    t=Parameter(0.5, 0, 1, "0: the first ingredient; 1: the second"),
)
def slerp(ops: Arithmetic, ingredients: Sequence[Tensor], base: None, *, t: float) -> Tensor:
    """Follow the great circle between two models, tensor by tensor (Shoemake 1985)."""
    a, b = ingredients
    lengths = sqrt(ops.dot(a, a)) * sqrt(ops.dot(b, b))
    cosine = ops.dot(a, b) / lengths if lengths else 1.0
    if abs(cosine) > _PARALLEL:
        return ops.weighted_sum(ingredients, [1 - t, t])
    angle = acos(cosine)
    return ops.weighted_sum(ingredients, [sin((1 - t) * angle) / sin(angle), sin(t * angle) / sin(angle)])
