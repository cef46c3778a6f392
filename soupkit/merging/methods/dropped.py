"""Methods that drop entries of task vectors at random and rescale the rest. Which are dropped follows from `seed`, the
tensor's name, the ingredient's number and the entry's place, so that the same call always drops the same ones."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from soupkit.errors import UsageError
from soupkit.merging.methods.joining import joined
from soupkit.merging.papers import DARE, DELLA
from soupkit.merging.registry import Bounds, each, merge_method

if TYPE_CHECKING:
    from torch import Tensor

    from soupkit.merging.arithmetic import Arithmetic

_Density = Annotated[Sequence[float], Bounds(0, 1, above=True), "the probability that an entry is kept"]
_Rescale = Annotated[
    Literal["probability", "l1", "none"], "kept entries / their probability, or to the tensor's L1 norm (mergekit: l1)"
]
_Weight = Annotated[Sequence[float], Bounds(-1e6, 1e6), "of each task vector"]
_Normalize = Annotated[bool, "divide by the weights of what is added"]
_Scale = Annotated[float, Bounds(-10, 10), "how much of the result is added"]
_Seed = Annotated[int, Bounds(0, 2**63 - 1), "of what is dropped"]
_Epsilon = Annotated[
    Sequence[float], Bounds(0, 0.5), "how far from the density the probabilities reach, by the entry's rank"
]

_SMALL = 1e-7  # an L1 norm below this is none
_Pruned = Callable[["Tensor", int], "Tensor"]


@merge_method(
    paper=DARE, base="needed", ingredients=(1, None), selects=True, holds_each=1, whole_when={"rescale": "l1"}
)
def dare_linear(
    ops: "Arithmetic",
    ingredients: "Sequence[Tensor]",
    base: "Tensor",
    *,
    density: _Density = each(0.5),
    rescale: _Rescale = "probability",
    weight: _Weight = each(1.0),
    normalize: _Normalize = False,
    scale: _Scale = 1.0,
    seed: _Seed = 0,
) -> "Tensor":
    """base + the sum of task vectors whose entries are dropped at random."""
    return _dare(ops, ingredients, base, density, rescale, weight, normalize, scale, seed, elect=False)


@merge_method(
    paper=DARE, base="needed", ingredients=(1, None), selects=True, holds_each=1, whole_when={"rescale": "l1"}
)
def dare_ties(
    ops: "Arithmetic",
    ingredients: "Sequence[Tensor]",
    base: "Tensor",
    *,
    density: _Density = each(0.5),
    rescale: _Rescale = "probability",
    weight: _Weight = each(1.0),
    normalize: _Normalize = False,
    scale: _Scale = 1.0,
    seed: _Seed = 0,
) -> "Tensor":
    """The same, of those that agree with the elected sign."""
    return _dare(ops, ingredients, base, density, rescale, weight, normalize, scale, seed, elect=True)


def _dare(
    ops: "Arithmetic",
    ingredients: "Sequence[Tensor]",
    base: "Tensor",
    density: Sequence[float],
    rescale: str,
    weight: Sequence[float],
    normalize: bool,
    scale: float,
    seed: int,
    *,
    elect: bool,
) -> "Tensor":
    def dropped(vector: "Tensor", i: int) -> "Tensor":
        if density[i] < 1:
            ops.keep(vector, ops.random_mask(density[i], seed, i))
            ops.release()
            if rescale == "probability":
                ops.divide(vector, density[i])
        return vector

    return _merged(ops, ingredients, base, dropped, 1, rescale, weight, normalize, scale, elect=elect)


def _check_epsilon(parameters: Mapping[str, Any]) -> None:
    for density, epsilon in zip(parameters["density"], parameters["epsilon"], strict=True):
        if density < 1 and not (density - epsilon > 0 and density + epsilon < 1):
            raise UsageError(
                f"reaches from {density - epsilon:g} to {density + epsilon:g}, which are no probabilities",
                "parameter epsilon",
                "choose it so that density - epsilon is above 0 and density + epsilon below 1",
            )


_method_of_della = partial(
    merge_method,
    paper=DELLA,
    scope="tensor",
    base="needed",
    ingredients=(1, None),
    selects=True,
    holds=2,
    holds_each=1,
    check=_check_epsilon,
)


@_method_of_della()
def della(
    ops: "Arithmetic",
    ingredients: "Sequence[Tensor]",
    base: "Tensor",
    *,
    density: _Density = each(0.5),
    epsilon: _Epsilon = each(0.15),
    rescale: _Rescale = "probability",
    weight: _Weight = each(1.0),
    normalize: _Normalize = True,
    scale: _Scale = 1.0,
    seed: _Seed = 0,
) -> "Tensor":
    """base + the mean of task vectors whose smaller entries are dropped more often, of the elected sign."""
    return _della(ops, ingredients, base, density, epsilon, rescale, weight, normalize, scale, seed, elect=True)


@_method_of_della()
def della_linear(
    ops: "Arithmetic",
    ingredients: "Sequence[Tensor]",
    base: "Tensor",
    *,
    density: _Density = each(0.5),
    epsilon: _Epsilon = each(0.15),
    rescale: _Rescale = "probability",
    weight: _Weight = each(1.0),
    normalize: _Normalize = False,
    scale: _Scale = 1.0,
    seed: _Seed = 0,
) -> "Tensor":
    """base + the sum of task vectors whose smaller entries are dropped more often."""
    return _della(ops, ingredients, base, density, epsilon, rescale, weight, normalize, scale, seed, elect=False)


def _della(
    ops: "Arithmetic",
    ingredients: "Sequence[Tensor]",
    base: "Tensor",
    density: Sequence[float],
    epsilon: Sequence[float],
    rescale: str,
    weight: Sequence[float],
    normalize: bool,
    scale: float,
    seed: int,
    *,
    elect: bool,
) -> "Tensor":
    # A row is all that one output is made of: of a convolution, its channels and its window.
    row = base[0].numel() if base.ndim > 1 and len(base) else base.numel()

    tables = [_by_rank(ops, row, d, e) for d, e in zip(density, epsilon, strict=True)]

    def pruned(vector: "Tensor", i: int) -> "Tensor":
        if density[i] >= 1:
            return vector
        order = ops.ascending(vector.view(-1, row))
        least, probability = tables[i]
        drawn = ops.random_bits(seed, i).to(ops.integer)
        ops.release()
        ops.keep(vector, drawn.sub_(_at(order, least)).bitwise_right_shift_(ops.width - 1))
        return vector.div_(_at(order, probability)) if rescale == "probability" else vector

    return _merged(ops, ingredients, base, pruned, max(1, row), rescale, weight, normalize, scale, elect=elect)


def _by_rank(ops: "Arithmetic", row: int, density: float, epsilon: float) -> "tuple[Tensor, Tensor]":
    """Return, for each rank in a row from the smallest magnitude on, below which of 2^31 random numbers an entry is
    kept, and with which probability that is: density +- epsilon."""
    import torch

    ranks = torch.arange(row, dtype=torch.float64, device=ops.device)
    shares = ranks.div_(row - 1) if row > 1 else ranks.add_(0.5)
    probability = shares.mul_(2 * epsilon).add_(density - epsilon)
    return probability.mul(2.0**31).to(ops.integer), probability.to(ops.dtype)


def _at(order: "Tensor", table: "Tensor") -> "Tensor":
    """Return what `table` (row,) says of each entry's rank, 1-D, where `order` (rows, row) are the places by rank."""
    return table.new_empty(order.shape).scatter_(1, order, table.expand(order.shape)).view(-1)


def _merged(
    ops: "Arithmetic",
    ingredients: "Sequence[Tensor]",
    base: "Tensor",
    pruned: _Pruned,
    row: int,
    rescale: str,
    weight: Sequence[float],
    normalize: bool,
    scale: float,
    *,
    elect: bool,
) -> "Tensor":
    """Join the task vectors that `pruned(vector, ingredient's number)` leaves, which sees whole rows of so many."""
    if rescale == "l1":
        return _rescaled(ops, ingredients, base, pruned, row, weight, normalize, scale, elect=elect)

    def formula(xs: "Sequence[Tensor]", origin: "Tensor") -> "Tensor":
        vectors = [pruned(ops.difference(x, origin), i) for i, x in enumerate(xs)]
        return ops.add(joined(ops, vectors, weight, elect=elect, normalize=normalize).mul_(scale), origin)

    return ops.by_runs(formula, ingredients, base, row=row)


def _rescaled(
    ops: "Arithmetic",
    ingredients: "Sequence[Tensor]",
    base: "Tensor",
    pruned: _Pruned,
    row: int,
    weight: Sequence[float],
    normalize: bool,
    scale: float,
    *,
    elect: bool,
) -> "Tensor":
    """Join what `pruned` leaves, multiplied so that its L1 norm is that of all entries: it is pruned once, and held."""
    left, factors = [], []
    for i, x in enumerate(ingredients):

        def kept_entries(xs: "Sequence[Tensor]", origin: "Tensor", i: int = i) -> "Tensor":
            return pruned(ops.difference(xs[0], origin), i)

        kept = ops.evaluated(kept_entries, [x], base, row=row)
        before, after = ops.total(lambda here: [here[0].sub_(here[1]).abs_(), here[2].abs_()], [x, base, kept])
        left.append(kept)
        factors.append(before / after if before >= _SMALL and after >= _SMALL else 1.0)

    def formula(xs: "Sequence[Tensor]", origin: "Tensor") -> "Tensor":
        vectors = [ops.copy(x).mul_(factor) for x, factor in zip(xs, factors, strict=True)]
        return ops.add(joined(ops, vectors, weight, elect=elect, normalize=normalize).mul_(scale), origin)

    return ops.by_runs(formula, left, base)
