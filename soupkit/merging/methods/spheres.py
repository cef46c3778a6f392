"""Methods that see a tensor as a vector with a direction and a length. What they compute is a weighted sum whose
weights follow from the dot products of the ingredients, in float64."""

from collections.abc import Sequence
from math import acos, cos, fsum, sin, sqrt
from typing import TYPE_CHECKING, Annotated, Literal

from soupkit.merging.methods.averages import normalized
from soupkit.merging.papers import KARCHER, MODEL_STOCK, MULTISLERP, NUSLERP, SLERP
from soupkit.merging.registry import Bounds, each, merge_method

if TYPE_CHECKING:
    from torch import Tensor

    from soupkit.merging.arithmetic import Arithmetic

# Cosine beyond which slerp's formula divides by nearly nothing (Shoemake 1985 interpolates linearly).
_PARALLEL = 0.9995
_COLLINEAR = 1e-16  # nuslerp's: of 1 - cosine squared
_NO_DIRECTION = 1e-8  # the length below which a sum of unit vectors has none


def _arc(t: float, angle: float) -> list[float]:
    """Return the weights of two vectors `angle` apart, at `t` of the way from the first to the second."""
    return [sin((1 - t) * angle) / sin(angle), sin(t * angle) / sin(angle)]


@merge_method(paper=SLERP, scope="tensor", ingredients=(2, 2))
def slerp(
    ops: "Arithmetic",
    ingredients: "Sequence[Tensor]",
    base: None,
    *,
    t: Annotated[float, Bounds(0, 1), "0: the first ingredient; 1: the second"] = 0.5,
) -> "Tensor":
    """The great circle between two models, tensor by tensor."""
    (aa, ab), (_, bb) = ops.gram(ingredients)
    lengths = sqrt(aa) * sqrt(bb)
    cosine = ab / lengths if lengths else 1.0
    weights = [1 - t, t] if abs(cosine) > _PARALLEL else _arc(t, acos(cosine))
    return ops.by_runs(lambda xs, _: ops.weighted_sum(xs, weights), ingredients)


@merge_method(paper=NUSLERP, scope="tensor", base="optional", ingredients=(2, 2), holds=2, exact={"over": "tensor"})
def nuslerp(
    ops: "Arithmetic",
    ingredients: "Sequence[Tensor]",
    base: "Tensor | None",
    *,
    weight: Annotated[Sequence[float], Bounds(0, 1e6), "the second's share of their sum is the way gone"] = each(1.0),
    over: Annotated[Literal["tensor", "rows", "columns"], "what is one vector"] = "tensor",
) -> "Tensor":
    """The great circle between two models, or between their task vectors where there is a base."""
    t = weight[1] / sum(weight) if sum(weight) else 0.5
    if over != "tensor" and ingredients[0].ndim > 1:
        return _nuslerp_of_vectors(ops, ingredients, base, t, axis=-1 if over == "rows" else 0)
    (aa, ab), (_, bb) = ops.gram(ingredients, base)
    lengths = sqrt(aa) * sqrt(bb)
    cosine = min(1.0, max(-1.0, ab / lengths)) if lengths else 1.0
    weights = [1 - t, t] if 1 - cosine**2 <= _COLLINEAR else _arc(t, acos(cosine))
    return _sum_around(ops, ingredients, base, weights)


def _sum_around(
    ops: "Arithmetic", ingredients: "Sequence[Tensor]", base: "Tensor | None", weights: Sequence[float]
) -> "Tensor":
    """Return the weighted sum of the ingredients; with a base, of their task vectors, added to it."""

    def formula(xs: "Sequence[Tensor]", origin: "Tensor | None") -> "Tensor":
        if origin is None:
            return ops.weighted_sum(xs, weights)
        return ops.add(ops.weighted_sum(ops.task_vectors(xs, origin), weights), origin)

    return ops.by_runs(formula, ingredients, base)


def _nuslerp_of_vectors(
    ops: "Arithmetic", ingredients: "Sequence[Tensor]", base: "Tensor | None", t: float, axis: int
) -> "Tensor":
    """Return the arc for each vector along `axis` of its own; the angles are those of sums that torch orders."""
    shape = ingredients[0].shape
    columns = axis == 0

    def vectors(x: "Tensor") -> "Tensor":  # (vectors, their length)
        return x.reshape(shape[0], -1).T if columns else x.reshape(-1, shape[-1])

    a, b = (ops.copy(x).double() for x in ingredients)
    origin = ops.copy(base).double() if base is not None else None
    if origin is not None:
        a, b = a - origin, b - origin
    a, b = vectors(a), vectors(b)
    lengths = a.norm(dim=1) * b.norm(dim=1)
    cosine = ((a * b).sum(dim=1) / lengths.clamp(min=1e-300)).clamp(-1, 1)
    straight = ((1 - cosine.square()) <= _COLLINEAR).logical_or_(lengths == 0)
    angle = cosine.masked_fill(straight, 0).acos()
    first = ((1 - t) * angle).sin().div_(angle.sin()).masked_fill_(straight, 1 - t)
    second = (t * angle).sin().div_(angle.sin()).masked_fill_(straight, t)
    merged = a * first[:, None] + b * second[:, None]
    merged = (merged.T if columns else merged).reshape(shape)
    return merged if origin is None else merged + origin


@merge_method(paper=MULTISLERP, scope="tensor", base="optional", ingredients=(1, None))
def multislerp(
    ops: "Arithmetic",
    ingredients: "Sequence[Tensor]",
    base: "Tensor | None",
    *,
    weight: Annotated[Sequence[float], Bounds(0, 1e6), "share of each ingredient"] = each(1.0),
    normalize: Annotated[bool, "divide the weights by their sum"] = True,
) -> "Tensor":
    """The mean direction of the models, or of their task vectors where there is a base, with their mean length."""
    weights = normalized(weight) if normalize and any(weight) else list(weight)
    products = ops.gram(ingredients, base)
    lengths = [sqrt(products[i][i]) for i in range(len(weights))]
    # The mean of unit vectors is the tangents' mean at their normalised mean too, which multislerp asks for.
    directions = [w / length if length else 0.0 for w, length in zip(weights, lengths, strict=True)]
    length = sqrt(max(0.0, _quadratic(products, directions)))
    if length < _NO_DIRECTION or len(weights) == 1:
        return _sum_around(ops, ingredients, base, weights)
    mean = fsum(w * x for w, x in zip(weights, lengths, strict=True))
    return _sum_around(ops, ingredients, base, [mean * d / length for d in directions])


def _quadratic(products: Sequence[Sequence[float]], x: Sequence[float], y: Sequence[float] | None = None) -> float:
    """Return the dot product of two weighted sums of the vectors that have these dot products."""
    y = x if y is None else y
    return sum(x[i] * y[j] * products[i][j] for i in range(len(x)) for j in range(len(y)))


@merge_method(paper=KARCHER, scope="tensor", ingredients=(2, None))
def karcher(
    ops: "Arithmetic",
    ingredients: "Sequence[Tensor]",
    base: None,
    *,
    iterations: Annotated[int, Bounds(1, 10_000), "steps at most"] = 10,
    tolerance: Annotated[float, Bounds(0, 1), "the step, in radians, at which it ends"] = 1e-5,
) -> "Tensor":
    """The Riemannian mean of the models' directions on the unit sphere, with their mean length."""
    products = ops.gram(ingredients)
    lengths = [sqrt(products[i][i]) for i in range(len(ingredients))]
    kept = [i for i, length in enumerate(lengths) if length]
    if not kept:
        return ops.by_runs(lambda xs, _: ops.mean(xs), ingredients)
    units = [[products[i][j] / lengths[i] / lengths[j] for j in kept] for i in kept]
    mean = sum(lengths) / len(lengths)
    on_sphere = _karcher_mean(units, iterations, tolerance)
    weights = [0.0] * len(ingredients)
    for i, share in zip(kept, on_sphere, strict=True):
        weights[i] = mean * share / lengths[i]
    return ops.by_runs(lambda xs, _: ops.weighted_sum(xs, weights), ingredients)


def _karcher_mean(units: Sequence[Sequence[float]], iterations: int, tolerance: float) -> list[float]:
    """Return the mean of unit vectors with these dot products, as weights of them."""
    n = len(units)
    mean = [1 / n] * n
    length = sqrt(max(0.0, _quadratic(units, mean)))
    mean = [1.0] + [0.0] * (n - 1) if length < tolerance else [m / length for m in mean]
    for _ in range(iterations):
        tangent = [0.0] * n
        for i in range(n):
            dot = min(1.0, max(-1.0, sum(units[i][j] * mean[j] for j in range(n))))
            angle = acos(dot)
            if angle < tolerance:
                continue
            share = angle / sin(angle) / n if sin(angle) else 0.0
            tangent = [x - share * dot * m for x, m in zip(tangent, mean, strict=True)]
            tangent[i] += share
        step = sqrt(max(0.0, _quadratic(units, tangent)))
        if step < tolerance:
            break
        mean = [cos(step) * m + sin(step) / step * x for m, x in zip(mean, tangent, strict=True)]
        length = sqrt(max(0.0, _quadratic(units, mean)))
        mean = [m / length for m in mean] if length else mean
    return mean


@merge_method(
    paper=MODEL_STOCK, scope="tensor", base="needed", ingredients=(2, None), holds=2, exact={"over": "tensor"}
)
def model_stock(
    ops: "Arithmetic",
    ingredients: "Sequence[Tensor]",
    base: "Tensor",
    *,
    average: Annotated[Literal["cosine", "angle"], "what is averaged over pairs (FusionBench: angle)"] = "cosine",
    over: Annotated[Literal["tensor", "rows"], "what has an angle of its own"] = "tensor",
    floor: Annotated[float, Bounds(0, 1), "products of lengths count as this at least (mergekit: 1e-6)"] = 0.0,
) -> "Tensor":
    """base + t (mean - base), where t = N c / (1 + (N - 1) c) and c is the task vectors' mean cosine."""
    if over == "rows" and base.ndim > 1:
        return _model_stock_of_rows(ops, ingredients, base, average, floor)
    products = ops.shares(ingredients, base)
    n = len(ingredients)
    cosines = []
    for i in range(n):
        for j in range(i + 1, n):
            lengths = max(sqrt(products[i][i]) * sqrt(products[j][j]), floor)
            cosines.append(min(1.0, max(-1.0, products[i][j] / lengths)) if lengths else 0.0)
    if average == "angle":
        c = cos(sum(map(acos, cosines)) / len(cosines))
    else:
        c = sum(cosines) / len(cosines)
    t = n * c / (1 + (n - 1) * c) if abs(1 + (n - 1) * c) >= 1e-6 else 0.0

    def formula(xs: "Sequence[Tensor]", b: "Tensor") -> "Tensor":
        origin = ops.copy(b)
        return ops.mean(xs).sub_(origin).mul_(t).add_(origin)

    return ops.by_runs(formula, ingredients, base)


def _model_stock_of_rows(
    ops: "Arithmetic", ingredients: "Sequence[Tensor]", base: "Tensor", average: str, floor: float
) -> "Tensor":
    """Return the same with a t for each row, from sums that torch orders."""
    n, row = len(ingredients), base.shape[-1]
    least = max(floor, 1e-300)

    def formula(xs: "Sequence[Tensor]", origin: "Tensor") -> "Tensor":
        start = origin.double().view(-1, row)
        vectors = [x.double().view(-1, row) - start for x in xs]
        lengths = [v.norm(dim=1) for v in vectors]
        cosines = [
            ((vectors[i] * vectors[j]).sum(dim=1) / (lengths[i] * lengths[j]).clamp(min=least)).clamp(-1, 1)
            for i in range(n)
            for j in range(i + 1, n)
        ]
        if average == "angle":
            c = sum((x.acos() for x in cosines[1:]), cosines[0].acos()).div(len(cosines)).cos()
        else:
            c = sum(cosines[1:], cosines[0]) / len(cosines)
        below = 1 + (n - 1) * c
        t = (n * c / below).masked_fill(below.abs() < 1e-6, 0)
        return (start + t[:, None] * sum(vectors[1:], vectors[0]).div_(n)).reshape(-1)

    return ops.by_runs(formula, ingredients, base, row=row)
