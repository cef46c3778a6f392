"""Methods that add task vectors, ingredient - base, to a base, entry by entry."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from soupkit.merging.papers import ARCEE_FUSION, CONSENSUS, MAGMAX, NEARSWAP, RAM, TASK_ARITHMETIC
from soupkit.merging.registry import Bounds, each, merge_method

if TYPE_CHECKING:
    from torch import Tensor

    from soupkit.merging.arithmetic import Arithmetic


@merge_method(paper=TASK_ARITHMETIC, base="needed", ingredients=(1, None))
def task_arithmetic(
    ops: "Arithmetic",
    ingredients: "Sequence[Tensor]",
    base: "Tensor",
    *,
    scale: Annotated[Sequence[float], Bounds(-10, 10), "how much of each task vector is added"] = each(0.4),
    normalize: Annotated[bool, "divide the scales by their sum"] = False,
) -> "Tensor":
    """base + sum of scale (ingredient - base)."""
    origin, whole = ops.copy(base), sum(scale)
    scales = [s / whole for s in scale] if normalize and abs(whole) >= 1e-8 else scale
    total = ops.difference(ingredients[0], origin).mul_(scales[0]).add_(origin)
    for ingredient, s in zip(ingredients[1:], scales[1:], strict=True):
        total.add_(ops.difference(ingredient, origin).mul_(s))
        ops.release()
    return total


@merge_method(paper=MAGMAX, base="needed", ingredients=(1, None), selects=True)
def magmax(
    ops: "Arithmetic",
    ingredients: "Sequence[Tensor]",
    base: "Tensor",
    *,
    scale: Annotated[float, Bounds(-10, 10), "how much of the result is added"] = 0.5,
) -> "Tensor":
    """base + scale times, entry by entry, the task vector of largest magnitude."""

    def formula(xs: "Sequence[Tensor]", origin: "Tensor") -> "Tensor":
        largest = ops.difference(xs[0], origin)
        for x in xs[1:]:
            vector = ops.difference(x, origin)
            ops.choose(ops.has_larger_magnitude(vector, largest), vector, largest)
            ops.release(2)
        return ops.add(largest.mul_(scale), origin)

    return ops.by_runs(formula, ingredients, base)


@merge_method(paper=CONSENSUS, base="needed", ingredients=(2, None), selects=True)
def consensus(
    ops: "Arithmetic",
    ingredients: "Sequence[Tensor]",
    base: "Tensor",
    *,
    active: Annotated[float, Bounds(0, 10), "an entry matters to a task above this x its distance to the sum"] = 0.6,
    agree: Annotated[int, Bounds(1, 1000), "to how many tasks an entry has to matter"] = 2,
    scale: Annotated[float, Bounds(-10, 10), "how much of the sum is added"] = 0.3,
) -> "Tensor":
    """base + scale times the sum of task vectors in the entries that matter to two tasks or more."""

    def formula(xs: "Sequence[Tensor]", origin: "Tensor") -> "Tensor":
        vectors = ops.task_vectors(xs, origin)
        total = ops.sum(vectors)
        count = ops.bits(ops.zeros(total.numel()))
        for vector in vectors:
            distance = ops.difference(vector, total).abs_().mul_(active)
            count.sub_(ops.is_above(vector.abs_(), distance))  # a mask is -1 where it keeps
            ops.release(2)
        few = count.sub_(agree).bitwise_right_shift_(ops.width - 1)
        return ops.add(ops.keep(total, few.bitwise_not_()).mul_(scale), origin)

    return ops.by_runs(formula, ingredients, base)


@merge_method(paper=RAM, base="needed", ingredients=(1, None), selects=True)
def ram(
    ops: "Arithmetic",
    ingredients: "Sequence[Tensor]",
    base: "Tensor",
    *,
    epsilon: Annotated[float, Bounds(0, 1), "an entry has changed by more than this"] = 1e-5,
) -> "Tensor":
    """base + what one model alone changed, + the mean of what several changed, Reinforced Agent Merging."""
    return _ram(ops, ingredients, base, epsilon, [1.0] * len(ingredients))


@merge_method(paper=RAM, scope="tensor", base="needed", ingredients=(1, None), selects=True)
def ramplus_tl(
    ops: "Arithmetic",
    ingredients: "Sequence[Tensor]",
    base: "Tensor",
    *,
    r: Annotated[float, Bounds(0, 10), "how much more an entry counts that one model alone changed"] = 0.1,
    alpha: Annotated[float, Bounds(0, 10), "the largest ratio of shared to unshared entries that counts"] = 0.2,
    epsilon: Annotated[float, Bounds(0, 1), "an entry has changed by more than this"] = 1e-5,
) -> "Tensor":
    """The same with more of what one model alone changed, by how much it shares, tensor by tensor."""
    n = len(ingredients)

    def counts(here: "list[Tensor]") -> "list[Tensor]":
        *xs, origin = here
        changed = [((x - origin).abs() > epsilon).double() for x in xs]
        together = sum(changed[1:], changed[0])
        return [c * (together > 1) for c in changed] + [c * (together == 1) for c in changed]

    counted = ops.total(counts, [*ingredients, base])
    ratios = [
        shared / max(alone, epsilon) if shared else 0.0 for shared, alone in zip(counted[:n], counted[n:], strict=True)
    ]
    return _ram(ops, ingredients, base, epsilon, [1 + r * min(ratio, alpha) for ratio in ratios])


def _ram(
    ops: "Arithmetic", ingredients: "Sequence[Tensor]", base: "Tensor", epsilon: float, factors: Sequence[float]
) -> "Tensor":
    """Return base + factors x what one alone changed + the mean, over those that changed it, of what several did."""

    def formula(xs: "Sequence[Tensor]", origin: "Tensor") -> "Tensor":
        size = origin.numel()
        shared, alone, count = ops.zeros(size), ops.zeros(size), ops.zeros(size)
        for x, factor in zip(xs, factors, strict=True):
            vector = ops.difference(x, origin)
            changed = ops.is_above(ops.copy(vector).abs_(), epsilon)
            ops.keep(vector, changed)
            count.add_(ops.as_number(changed, 1.0))
            shared.add_(vector)
            alone.add_(vector.mul_(factor))
            ops.release(3)
        several = ops.is_above(count, 1.5)
        ops.choose(several, shared.div_(count.clamp_(min=1.0)), alone)
        return ops.add(alone, origin)

    return ops.by_runs(formula, ingredients, base)


@merge_method(paper=NEARSWAP, base="needed", ingredients=(1, 1))
def nearswap(
    ops: "Arithmetic",
    ingredients: "Sequence[Tensor]",
    base: "Tensor",
    *,
    t: Annotated[float, Bounds(0, 1e6), "the largest change of an entry"] = 1e-4,
) -> "Tensor":
    """The base, with each entry moved towards the ingredient's by at most t."""

    def formula(xs: "Sequence[Tensor]", origin: "Tensor") -> "Tensor":
        return ops.add(ops.difference(xs[0], origin).clamp_(-t, t), origin)

    return ops.by_runs(formula, ingredients, base)


@merge_method(paper=ARCEE_FUSION, scope="tensor", base="needed", ingredients=(1, 1), selects=True, holds=2, exact=False)
def arcee_fusion(ops: "Arithmetic", ingredients: "Sequence[Tensor]", base: "Tensor") -> "Tensor":
    """The base, with the ingredient's entries where abs(change) x KL(softmax of rows) is at least median + 1.5 IQR."""
    (ingredient,), n = ingredients, base.numel()
    if not n:
        return ops.copy(base)
    row = base.shape[-1] if base.ndim else 1

    def importance(xs: "Sequence[Tensor]", origin: "Tensor") -> "Tensor":
        x, b = xs[0].double().view(-1, row), origin.double().view(-1, row)
        p, q = x.softmax(dim=1).add_(1e-8), b.softmax(dim=1).add_(1e-8)
        divergence = (p * (p / q).log()).sum(dim=1, keepdim=True)
        # Rounding makes a divergence of equal rows slightly negative; a selection takes no negative numbers.
        return (x - b).abs_().mul_(divergence.clamp_(min=0)).reshape(-1)

    scores = ops.evaluated(importance, ingredients, base, row=row)
    ranks = [n - int(q * (n - 1)) for q in (0.25, 0.5, 0.75)]
    first, median, third = ops.largest(ranks, lambda xs: xs[0], [scores])
    threshold = median + 1.5 * (third - first)

    def formula(xs: "Sequence[Tensor]", origin: "Tensor") -> "Tensor":
        vector = ops.difference(xs[0], origin)
        below = ops.is_above(ops.zeros(vector.numel()).add_(threshold), xs[1])
        return ops.add(ops.keep(vector, below.bitwise_not_()), origin)

    return ops.by_runs(formula, [ingredient, scores], base)
