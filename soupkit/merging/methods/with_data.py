"""Averages that weigh weights by what they do to data: statistics that `soupkit statistics` has collected.

What no statistics are of is averaged.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from soupkit.errors import UsageError
from soupkit.merging.papers import FISHER, REGMEAN, REGMEAN_PLUSPLUS
from soupkit.merging.registry import Bounds, OfTheModel, StatisticsFiles, each, merge_method

if TYPE_CHECKING:
    from torch import Tensor

    from soupkit.merging.arithmetic import Arithmetic
    from soupkit.merging.statistics import Statistics
    from soupkit.merging.survey import Survey


def _of_kind(kind: str) -> "Callable[[Survey], Statistics]":
    """Return the survey that opens the ingredients' statistics of a kind."""

    def survey(model: "Survey") -> "Statistics":
        from soupkit.merging.statistics import statistics_of

        return statistics_of(model, kind)

    return survey


def _check_weights(parameters: Mapping[str, Any]) -> None:
    if not any(parameters["weight"]):
        raise UsageError("are all zero", "--weight", "give one ingredient a weight above 0")


@merge_method(paper=FISHER, ingredients=(1, None), check=_check_weights)
def fisher(
    ops: "Arithmetic",
    ingredients: "Sequence[Tensor]",
    base: None,
    *,
    statistics: Annotated[Sequence[str], StatisticsFiles("fisher"), "a file per ingredient (--statistics)"],
    weight: Annotated[Sequence[float], Bounds(0, 1e6), "share of each ingredient"] = each(1.0),
    floor: Annotated[float, Bounds(0, 1, above=True), "the least Fisher information of an entry"] = 1e-6,
    known: Annotated["Statistics", OfTheModel(_of_kind("fisher"))],
) -> "Tensor":
    """The mean of the ingredients, entry by entry weighted by their Fisher information."""

    def formula(xs: "Sequence[Tensor]", _: None) -> "Tensor":
        n = xs[0].numel()
        total, share, information, product = ops.zeros(n), ops.zeros(n), ops.take(n), ops.take(n)
        for i, (x, factor) in enumerate(zip(xs, weight, strict=True)):
            place = 0
            for name, start, stop in ops.pieces:
                here = information[place : place + stop - start]
                here.copy_(known.read(i, name, start, stop)) if name in known else here.fill_(1.0)
                place += stop - start
            information.clamp_(min=floor).mul_(factor)
            share.add_(information)
            total.add_(product.copy_(x).mul_(information))
        return total.div_(share)

    return ops.by_runs(formula, ingredients)


@merge_method(paper=REGMEAN, scope="tensor", ingredients=(1, None), holds=30, exact=False)
def regmean(
    ops: "Arithmetic",
    ingredients: "Sequence[Tensor]",
    base: None,
    *,
    statistics: Annotated[Sequence[str], StatisticsFiles("gram"), "a file per ingredient (--statistics)"],
    alpha: Annotated[float, Bounds(0, 1), "what the Grams' entries off the diagonal are multiplied by"] = 0.9,
    ridge: Annotated[float, Bounds(0, 1), "x the Grams' mean diagonal, is added to each diagonal"] = 1e-6,
    known: Annotated["Statistics", OfTheModel(_of_kind("gram"))],
) -> "Tensor":
    """Of each linear layer the weight whose outputs on all ingredients' inputs are nearest to theirs."""
    return _by_regression(ops, ingredients, known, alpha, ridge)


@merge_method(paper=REGMEAN_PLUSPLUS, scope="tensor", ingredients=(1, None), holds=30, exact=False)
def regmean_plusplus(
    ops: "Arithmetic",
    ingredients: "Sequence[Tensor]",
    base: None,
    *,
    statistics: Annotated[Sequence[str], StatisticsFiles("merged_gram"), "a file per ingredient (--statistics)"],
    known: Annotated["Statistics", OfTheModel(_of_kind("merged_gram"))],
) -> "Tensor":
    """The same on the inputs that each block gets from the merged blocks before it."""
    return _by_regression(ops, ingredients, known, known.behind["alpha"], known.behind["ridge"])


def _by_regression(
    ops: "Arithmetic", ingredients: "Sequence[Tensor]", known: "Statistics", alpha: float, ridge: float
) -> "Tensor":
    import torch

    from soupkit.merging.regression import Regression

    name = ops.name
    if name not in known:
        return ops.by_runs(lambda xs, _: ops.mean(xs), ingredients)
    transposed = known.is_transposed(name)
    regression = Regression(alpha, ridge)
    for i, x in enumerate(ingredients):
        weight = (x if transposed else x.T).double()  # [in, out]
        regression.add(known.whole(i, name).to(ops.device, torch.float64), weight)
    solved = regression.solved()
    return (solved if transposed else solved.T).contiguous()
