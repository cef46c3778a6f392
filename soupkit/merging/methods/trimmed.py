"""Methods that keep the entries of task vectors that stand out: the largest, all but the outliers, or those that differ
most between the ingredients."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from soupkit.merging.methods.joining import joined
from soupkit.merging.papers import BREADCRUMBS, SCE, TIES
from soupkit.merging.registry import Bounds, OfTheModel, each, merge_method

if TYPE_CHECKING:
    from torch import Tensor

    from soupkit.merging.arithmetic import Arithmetic
    from soupkit.merging.survey import Survey

_Magnitude = Callable[["Sequence[Tensor]"], "Tensor"]


def _magnitude(ops: "Arithmetic", i: int) -> _Magnitude:
    """Return what makes the magnitudes of ingredient i's task vector; the base is the last of what it is given."""
    return lambda xs: ops.difference(xs[i], xs[-1]).abs_()


def _kept(density: float, n: int) -> int:
    """Return how many of `n` entries are kept: at least one, where there is one."""
    return max(1, int(density * n))


def _thresholds_of_the_model(model: "Survey") -> tuple[float, ...] | None:
    """Return the least magnitude that each ingredient keeps in the whole model; None where tensors have their own."""
    if not model.plans or model.setting("trim") == "tensor":
        return None
    ranks = [_kept(density, model.elements) for density in model.setting("density")]
    if all(rank >= model.elements for rank in ranks):
        return (0.0,) * len(ranks)
    return tuple(model.largest(ranks, lambda ops: [_magnitude(ops, i) for i in range(len(ranks))]))


@merge_method(paper=TIES, base="needed", ingredients=(1, None), selects=True, whole_when={"trim": "tensor"})
def ties(
    ops: "Arithmetic",
    ingredients: "Sequence[Tensor]",
    base: "Tensor",
    *,
    density: Annotated[Sequence[float], Bounds(0, 1, above=True), "share of entries that are kept"] = each(0.2),
    trim: Annotated[Literal["model", "tensor"], "of what the largest are kept (mergekit: tensor)"] = "model",
    weight: Annotated[Sequence[float], Bounds(-1e6, 1e6), "of each task vector"] = each(1.0),
    normalize: Annotated[bool, "the mean of those that agree, not their sum (FusionBench: false)"] = True,
    scale: Annotated[float, Bounds(-10, 10), "how much of the result is added (FusionBench: 0.3)"] = 1.0,
    thresholds: Annotated["Sequence[float] | None", OfTheModel(_thresholds_of_the_model)] = None,
) -> "Tensor":
    """base + the mean of the largest entries of task vectors, where they agree with the elected sign."""
    n = base.numel()
    if thresholds is None:
        thresholds = [
            ops.largest([_kept(d, n)], _magnitude(ops, i), [*ingredients, base])[0] if n and d < 1 else 0.0
            for i, d in enumerate(density)
        ]

    def formula(xs: "Sequence[Tensor]", origin: "Tensor") -> "Tensor":
        vectors = [ops.trim(v, least) for v, least in zip(ops.task_vectors(xs, origin), thresholds, strict=True)]
        return ops.add(joined(ops, vectors, weight, elect=True, normalize=normalize).mul_(scale), origin)

    return ops.by_runs(formula, ingredients, base)


_Density = Annotated[Sequence[float], Bounds(0, 1, above=True), "share of entries that are kept"]
_Gamma = Annotated[Sequence[float], Bounds(0, 1), "share of entries, the largest, that are dropped"]
_Weight = Annotated[Sequence[float], Bounds(-1e6, 1e6), "of each task vector"]
_Normalize = Annotated[bool, "divide by the weights of what is added"]
_Scale = Annotated[float, Bounds(-10, 10), "how much of the result is added"]


@merge_method(paper=BREADCRUMBS, scope="tensor", base="needed", ingredients=(1, None), selects=True)
def breadcrumbs(
    ops: "Arithmetic",
    ingredients: "Sequence[Tensor]",
    base: "Tensor",
    *,
    density: _Density = each(0.9),
    gamma: _Gamma = each(0.01),
    weight: _Weight = each(1.0),
    normalize: _Normalize = False,
    scale: _Scale = 1.0,
) -> "Tensor":
    """base + the sum of task vectors without their largest and their smallest entries."""
    return _breadcrumbs(ops, ingredients, base, density, gamma, weight, normalize, scale, elect=False)


@merge_method(paper=BREADCRUMBS, scope="tensor", base="needed", ingredients=(1, None), selects=True)
def breadcrumbs_ties(
    ops: "Arithmetic",
    ingredients: "Sequence[Tensor]",
    base: "Tensor",
    *,
    density: _Density = each(0.9),
    gamma: _Gamma = each(0.01),
    weight: _Weight = each(1.0),
    normalize: _Normalize = False,
    scale: _Scale = 1.0,
) -> "Tensor":
    """The same, of those that agree with the elected sign."""
    return _breadcrumbs(ops, ingredients, base, density, gamma, weight, normalize, scale, elect=True)


def _breadcrumbs(
    ops: "Arithmetic",
    ingredients: "Sequence[Tensor]",
    base: "Tensor",
    density: Sequence[float],
    gamma: Sequence[float],
    weight: Sequence[float],
    normalize: bool,
    scale: float,
    *,
    elect: bool,
) -> "Tensor":
    n = base.numel()
    bounds = []
    for i, (d, g) in enumerate(zip(density, gamma, strict=True)):
        kept = _kept(d, n) if d < 1 else n
        outliers = min(int(g * n), n - kept)  # fewer are dropped where the density asks for more
        ranks = [outliers + 1, outliers + kept]
        bounds.append(ops.largest(ranks, _magnitude(ops, i), [*ingredients, base]) if kept < n else None)

    def formula(xs: "Sequence[Tensor]", origin: "Tensor") -> "Tensor":
        vectors = ops.task_vectors(xs, origin)
        for vector, bound in zip(vectors, bounds, strict=True):
            if bound is not None:
                ops.trim(ops.trim_outliers(vector, bound[0]), bound[1])
        return ops.add(joined(ops, vectors, weight, elect=elect, normalize=normalize).mul_(scale), origin)

    return ops.by_runs(formula, ingredients, base)


@merge_method(paper=SCE, scope="tensor", base="needed", ingredients=(1, None), selects=True, holds=2)
def sce(
    ops: "Arithmetic",
    ingredients: "Sequence[Tensor]",
    base: "Tensor",
    *,
    select: Annotated[float, Bounds(0, 1, above=True), "share of entries, those of largest variance"] = 1.0,
    floor: Annotated[float, Bounds(0, 1), "weights are equal where their sum is below (mergekit: 1e-6)"] = 0.0,
) -> "Tensor":
    """base + the mean of task vectors where they differ most, weighted by their energy, of the elected sign."""
    variance, least = [], 0.0
    if select < 1:
        variance = [ops.evaluated(lambda xs, _: _variance([ops.copy(x) for x in xs]), [*ingredients, base], None)]
        rank = int(int(variance[0].count_nonzero()) * select)
        if not rank:
            return ops.by_runs(lambda xs, b: ops.copy(xs[0]), [base])
        (least,) = ops.largest([rank], lambda xs: xs[0], variance)
    n = len(ingredients)
    energies = _energies(ops, ingredients, base, variance, least)
    whole = sum(energies)
    weights = [e / whole for e in energies] if whole >= floor and whole else [1 / n] * n

    def formula(xs: "Sequence[Tensor]", origin: "Tensor") -> "Tensor":
        vectors = ops.task_vectors(xs[:n], origin)
        if least > 0:
            kept = ops.is_nonzero(ops.trim(ops.copy(xs[n]), least))
            vectors = [ops.keep(v, kept) for v in vectors]
        total = ops.sum(vectors)
        merged, count = ops.zeros(total.numel()), ops.zeros(total.numel())
        for vector, weight in zip(vectors, weights, strict=True):
            agrees = ops.has_sign_of(vector, total).bitwise_and_(ops.is_nonzero(vector))
            merged.add_(ops.keep(vector, agrees).mul_(weight))
            count.add_(ops.as_number(agrees, weight))
            ops.release(2)
        return ops.add(merged.div_(count.clamp_(min=1e-6)), origin)

    return ops.by_runs(formula, [*ingredients, *variance], base)


def _variance(tensors: "list[Tensor]") -> "Tensor":
    """Return the entries' variance over the task vectors of all but the last of `tensors`, which is their base."""
    *xs, origin = tensors
    vectors = [x - origin for x in xs]
    mean = sum(vectors[1:], vectors[0]) / len(vectors)
    squares = [(v - mean).square_() for v in vectors]
    return sum(squares[1:], squares[0]).div_(len(vectors))


def _energies(
    ops: "Arithmetic", ingredients: "Sequence[Tensor]", base: "Tensor", variance: "Sequence[Tensor]", least: float
) -> list[float]:
    """Return the mean square of each task vector's entries, of those whose `variance` (none, or one tensor) is at
    least `least`."""
    n = len(ingredients)

    def squares(here: "list[Tensor]") -> "list[Tensor]":
        vectors = [x.sub_(here[n]) for x in here[:n]]
        if least > 0:
            kept = (here[n + 1] >= least).double()
            vectors = [v.mul_(kept) for v in vectors]
        return [v.square_() for v in vectors]

    return [s / max(1, base.numel()) for s in ops.total(squares, [*ingredients, base, *variance])]
