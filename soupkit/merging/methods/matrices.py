"""Methods that look at a layer's task vector as a matrix, by its singular values. They compute in float64; what LAPACK
and cuSOLVER make of a matrix differs in its last bits from machine to machine, and so may their soups."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from soupkit.merging.papers import ISO, MONOSOUP, TSV, WUDI
from soupkit.merging.registry import Bounds, merge_method

if TYPE_CHECKING:
    from torch import Tensor

    from soupkit.merging.arithmetic import Arithmetic

_Scale = Annotated[float, Bounds(-10, 10), "how much of the merged task vector is added"]
_LEFT_OUT = "text_projection"  # as the papers' code does: its task vectors are averaged
# Parts of the names of the layers whose inputs WUDI thinks of: attention and perceptrons, as several libraries say.
_LINEAR = (".attn.", ".mlp.", ".self_attn.", ".attention.", ".intermediate.", ".output.")


def _svd(x: "Tensor") -> "tuple[Tensor, Tensor, Tensor]":
    """Return the singular vectors and values of (m, n), but for rounding: (m, r), (r,), (r, n)."""
    import torch

    u, s, v = torch.linalg.svd(x, full_matrices=False)
    rank = int((s > _rounding(x, s)).sum())
    return u[:, :rank], s[:rank], v[:rank]


def _rounding(x: "Tensor", s: "Tensor") -> float:
    """Return below what a singular value of `x` is rounding: float32's, as weights are seldom stored finer."""
    return float(s.max()) * max(x.shape) * 1.2e-7 if s.numel() else 0.0


def _nearest_orthogonal(x: "Tensor") -> "Tensor":
    """Return the polar factor of `x`, the nearest matrix with orthonormal columns; zero where `x` has no direction."""
    u, _, v = _svd(x)
    return u @ v


def _merged(
    ops: "Arithmetic",
    ingredients: "Sequence[Tensor]",
    base: "Tensor",
    scale: float,
    merge: "Callable[[list[Tensor]], Tensor]",
    *,
    is_matrix: bool,
) -> "Tensor":
    """Return base + scale x `merge(task vectors)`, (m, n) in float64; of what is no matrix the mean task vector."""
    if not is_matrix:
        return ops.by_runs(lambda xs, b: ops.add(ops.mean(xs).sub_(ops.copy(b)).mul_(scale), b), ingredients, base)
    origin = base.double()
    return origin + merge([x.double() - origin for x in ingredients]).mul_(scale)


def _is_matrix(ops: "Arithmetic", base: "Tensor") -> bool:
    return base.ndim == 2 and _LEFT_OUT not in ops.name


@merge_method(
    paper=TSV, scope="tensor", base="needed", ingredients=(1, None), holds=12, holds_each=4, exact=False, selects=True
)
def tsv_m(ops: "Arithmetic", ingredients: "Sequence[Tensor]", base: "Tensor", *, scale: _Scale = 1.0) -> "Tensor":
    """base + the top 1/N of each task vector's singular triplets, their vectors whitened."""

    def merge(vectors: "list[Tensor]") -> "Tensor":
        import torch

        kept = max(1, min(vectors[0].shape) // len(vectors))
        parts = [tuple(part for part in _svd(v)) for v in vectors]
        u = torch.cat([u[:, :kept] for u, _, _ in parts], dim=1)
        s = torch.cat([s[:kept] for _, s, _ in parts])
        v = torch.cat([v[:kept] for _, _, v in parts])
        return _nearest_orthogonal(u) * s @ _nearest_orthogonal(v)

    return _merged(ops, ingredients, base, scale, merge, is_matrix=_is_matrix(ops, base))


@merge_method(
    paper=ISO, scope="tensor", base="needed", ingredients=(1, None), holds=10, holds_each=2, exact=False, selects=True
)
def iso_c(ops: "Arithmetic", ingredients: "Sequence[Tensor]", base: "Tensor", *, scale: _Scale = 1.0) -> "Tensor":
    """base + the sum of task vectors with all of its singular values set to their mean."""

    def merge(vectors: "list[Tensor]") -> "Tensor":
        total = sum(vectors[1:], vectors[0])
        u, s, v = _svd(total)
        return (u @ v).mul_(float(s.sum()) / min(total.shape))

    return _merged(ops, ingredients, base, scale, merge, is_matrix=_is_matrix(ops, base))


@merge_method(
    paper=ISO, scope="tensor", base="needed", ingredients=(1, None), holds=14, holds_each=4, exact=False, selects=True
)
def iso_cts(
    ops: "Arithmetic",
    ingredients: "Sequence[Tensor]",
    base: "Tensor",
    *,
    common: Annotated[float, Bounds(0, 1), "the share of directions that the tasks have in common"] = 0.8,
    scale: _Scale = 1.0,
) -> "Tensor":
    """The same with the least directions replaced by each task's own, of what the common ones leave."""

    def merge(vectors: "list[Tensor]") -> "Tensor":
        import torch

        rank = min(vectors[0].shape)
        own = round((rank - int(rank * common)) / len(vectors))  # directions of each task
        u, s, v = (part[..., : rank - own * len(vectors)] for part in _transposed(_svd(sum(vectors[1:], vectors[0]))))
        left, values, right = [u], [s], [v]
        for vector in vectors:
            own_u, own_s, own_v = _transposed(_svd(vector - u @ (u.T @ vector)))
            left.append(own_u[:, :own])
            values.append(own_s[:own])
            right.append(own_v[:, :own])
        mean = float(torch.cat(values).sum()) / rank
        return (_nearest_orthogonal(torch.cat(left, dim=1)) @ _nearest_orthogonal(torch.cat(right, dim=1)).T).mul_(mean)

    return _merged(ops, ingredients, base, scale, merge, is_matrix=_is_matrix(ops, base))


def _transposed(parts: "tuple[Tensor, Tensor, Tensor]") -> "tuple[Tensor, Tensor, Tensor]":
    """Return singular vectors as columns on both sides: (m, r), (r,), (n, r)."""
    u, s, v = parts
    return u, s, v.T


@merge_method(
    paper=WUDI, scope="tensor", base="needed", ingredients=(1, None), holds=14, holds_each=2, exact=False, selects=True
)
def wudi(
    ops: "Arithmetic",
    ingredients: "Sequence[Tensor]",
    base: "Tensor",
    *,
    steps: Annotated[int, Bounds(0, 100_000), "of Adam; 0: the sum of task vectors"] = 400,
    rate: Annotated[float, Bounds(0, 1), "the learning rate of Adam"] = 1e-5,
    scale: _Scale = 1.0,
) -> "Tensor":
    """base + the vector that interferes least with each task vector's rows, found from their sum by gradient."""

    def merge(vectors: "list[Tensor]") -> "Tensor":
        energies = [float(v.square().sum()) for v in vectors]
        tasks = [(v, e) for v, e in zip(vectors, energies, strict=True) if e]
        merged = sum(vectors[1:], vectors[0]).clone()
        if len(tasks) < 2:  # the sum is the minimum, from which Adam would wander off with the rounding of its gradient
            return merged
        # The gradient of sum norm((t - d) d')^2 / norm(d)^2 is 2 (t G - M), with G (n, n) and M (m, n) summed over d.
        gram = sum((d.T @ d / e for d, e in tasks), merged.new_zeros(merged.shape[1], merged.shape[1]))
        target = sum((d @ (d.T @ d) / e for d, e in tasks), merged.new_zeros(merged.shape))
        first, second = merged.new_zeros(merged.shape), merged.new_zeros(merged.shape)
        for step in range(1, steps + 1):
            gradient = (merged @ gram).sub_(target).mul_(2)
            first.mul_(0.9).add_(gradient, alpha=0.1)
            second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            size = (second / (1 - 0.999**step)).sqrt_().add_(1e-8)
            merged.addcdiv_(first, size, value=-rate / (1 - 0.9**step))
        return merged

    linear = base.ndim == 2 and any(part in ops.name for part in _LINEAR)
    return _merged(ops, ingredients, base, scale, merge, is_matrix=linear)


@merge_method(
    paper=MONOSOUP, scope="tensor", base="needed", ingredients=(1, 1), holds=12, holds_each=2, exact=False, selects=True
)
def monosoup(
    ops: "Arithmetic",
    ingredients: "Sequence[Tensor]",
    base: "Tensor",
    *,
    split: Annotated[Literal["effective_rank", "energy"], "where the singular values are split"] = "effective_rank",
    energy: Annotated[float, Bounds(0, 1, above=True), "the share above the split, with split=energy"] = 0.8,
    control: Annotated[bool, "scale the task vector to the same length, without a split: what shrinking does"] = False,
) -> "Tensor":
    """One model's task vector with its principal part weighted by 1 - w and its rest by w = r + (1 - r) cos a."""
    if base.ndim < 2 or _LEFT_OUT in ops.name:
        return ops.by_runs(lambda xs, _: ops.copy(xs[0]), ingredients)
    origin = base.double()
    vector = (ingredients[0].double() - origin).reshape(len(base), -1)
    u, s, v = _svd(vector)
    if not len(s):
        return origin
    shares = (s.square() / s.square().sum()).cumsum(dim=0)
    if split == "energy":
        k = min(len(s), int((shares < energy).sum()) + 1)
    else:
        p = s / s.sum()  # the effective rank of Roy and Vetterli 2007: exp of the entropy of normalised values
        k = max(1, min(len(s), int(float((-(p * p.log()).sum()).exp()) + 1e-9)))
    ratio = float((s[k] / s[0]).square()) if k < len(s) else 0.0
    low = ratio + (1 - ratio) * max(0.0, 1 - float(shares[k - 1])) ** 0.5
    weighted = s.clone()
    weighted[:k] *= 1 - low
    weighted[k:] *= low
    if control:
        return origin + vector.mul_(float(weighted.norm() / s.norm())).view(base.shape)
    return origin + ((u * weighted) @ v).view(base.shape)
