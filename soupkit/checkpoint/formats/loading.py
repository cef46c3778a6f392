"""What a library finds when it opens weights with the config beside them: the tensors that it lacks, that it has no use
for, and that have another shape. It is asked before weights are merged, on shapes alone."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Shape = tuple[int, ...]
Shapes = Mapping[str, tuple[str, Shape]]  # of each tensor, torch's name of its dtype, and its shape
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")


@dataclass(frozen=True, slots=True)
class Loading:
    """What came of it. `model` is the library's class.

    `reshaped` are tensors of another shape: name, the model's, the tensor's. `missing` and `unexpected` are those that
    the model has and the weights do not, and the reverse. `new` are those that the library gives new values at each
    loading, and `unused` those that it leaves out, as it does with parts that are not asked for: heads, poolers.
    """

    model: str
    reshaped: tuple[tuple[str, Shape, Shape], ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether the weights are those of the model."""
        return not (self.reshaped or self.missing or self.unexpected)


def sorted_out(
    model: str,
    parameters: Collection[str],
    reshaped: Iterable[tuple[str, Shape, Shape]],
    missing: Iterable[str],
    unexpected: Iterable[str],
    *,
    core: str = "",
) -> Loading:
    """Return what a library that forgives tensors too many and too few has found, with what it may be forgiven apart.

    A layer that is not there would begin at random, and one too many would be left out: a parameter that is missing
    from a numbered layer of the model's `core` (the prefix of its names), and a tensor that other layers have too, are
    errors of the config. All else that is missing or too much belongs to another task than the class is for.
    """
    reshaped = tuple(sorted(reshaped))
    missing, unexpected = sorted(missing), sorted(unexpected)
    absent = {*missing, *(name for name, _, _ in reshaped)}
    in_layers = {_layer(name) for name in parameters if name not in absent}
    lacking = tuple(n for n in missing if n in parameters and n.startswith(core) and _layer(n) != n)
    too_many = tuple(n for n in unexpected if _layer(n) in in_layers)
    if not in_layers:  # nothing of the model is there
        lacking, too_many = tuple(missing), tuple(unexpected)
    return Loading(
        model,
        reshaped,
        lacking,
        too_many,
        tuple(n for n in missing if n not in lacking and n in parameters),
        tuple(n for n in unexpected if n not in too_many),
    )


def differing(model: str, expected: Mapping[str, Shape], own: Mapping[str, Shape]) -> Loading:
    """Return what a library that forgives nothing has found."""
    return Loading(
        model,
        tuple((n, shape, own[n]) for n, shape in expected.items() if n in own and own[n] != shape),
        tuple(name for name in expected if name not in own),
        tuple(name for name in own if name not in expected),
    )


def _layer(name: str) -> str:
    """Return a name without the numbers of its layers."""
    return _NUMBER.sub("#", name)


def empty(tensors: Shapes) -> dict[str, Any]:
    """Return tensors without content of the given dtypes and shapes."""
    import torch

    return {
        name: torch.empty(shape, dtype=getattr(torch, dtype, torch.uint8), device="meta")
        for name, (dtype, shape) in tensors.items()
    }
