"""Averages of the ingredients, and the line from a base to their mean."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from soupkit.errors import UsageError
from soupkit.merging.papers import SOUPS, WISE_FT
from soupkit.merging.registry import Bounds, merge_method

if TYPE_CHECKING:
    from torch import Tensor

    from soupkit.merging.arithmetic import Arithmetic


@merge_method(paper=SOUPS)
def uniform(ops: "Arithmetic", ingredients: "Sequence[Tensor]", base: None) -> "Tensor":
    """The mean of the ingredients, the uniform soup."""
    return ops.mean(ingredients)


def _check_weights(parameters: Mapping[str, Any]) -> None:
    weight = parameters["weight"]
    # A sum this small against its terms is rounding, and dividing by it would blow the weights up.
    if parameters["normalize"] and abs(sum(weight)) <= 1e-12 * sum(abs(w) for w in weight):
        raise UsageError(
            f"has the weights {', '.join(f'{w:g}' for w in weight)}, which sum to zero",
            "--weight",
            "give weights that can be divided by their sum, or --param normalize=false",
        )


@merge_method(paper=SOUPS, check=_check_weights)
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
