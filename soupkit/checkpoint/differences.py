"""How the tensors of one checkpoint differ from those of another, or from those of a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from soupkit.checkpoint.checkpoint import Checkpoint

_SHOWN = 6
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TensorDifferences:
    """How the tensors of a checkpoint differ from a reference's; `reshaped` maps a name to (reference's, its own)."""

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    reshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    dtypes: dict[str, tuple[str, str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether averaging is impossible; other dtypes alone do not stand in its way."""
        return bool(self.missing or self.unexpected or self.reshaped)

    def __str__(self) -> str:
        parts = []
        if self.missing:
            tensors = "tensor" if len(self.missing) == 1 else "tensors"
            parts.append(f"{len(self.missing)} {tensors} missing ({some(self.missing)})")
        if self.unexpected:
            parts.append(f"{len(self.unexpected)} unexpected ({some(self.unexpected)})")
        if self.reshaped:
            shown = [f"{n} {list(b)} instead of {list(a)}" for n, (a, b) in self.reshaped.items()]
            parts.append(f"{len(self.reshaped)} of another shape ({some(shown)})")
        return "; ".join(parts)


def some(items: Sequence[str]) -> str:
    """Return the first few of `items`, and how many more there are."""
    more = f", and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more


def tensor_differences(reference: Checkpoint, other: Checkpoint) -> TensorDifferences:
    """Compare the names, shapes and dtypes of two checkpoints."""
    a, b = reference.tensors, other.tensors
    differences = shape_differences({n: s.shape for n, s in a.items()}, {n: s.shape for n, s in b.items()})
    dtypes = {n: (a[n].dtype, b[n].dtype) for n in a if n in b and a[n].dtype != b[n].dtype}
    return replace(differences, dtypes=dtypes)


def shape_differences(reference: Mapping[str, Shape], other: Mapping[str, Shape]) -> TensorDifferences:
    """Compare names and shapes."""
    return TensorDifferences(
        missing=tuple(name for name in reference if name not in other),
        unexpected=tuple(name for name in other if name not in reference),
        reshaped={n: (s, other[n]) for n, s in reference.items() if n in other and s != other[n]},
    )
