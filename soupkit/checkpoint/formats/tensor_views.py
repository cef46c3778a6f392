"""Tensors seen in another way without a copy: rows of one, several after one another, transposed, of another shape.

All raise CheckpointError, about `where`, for a tensor that does not lie row by row in its file.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import prod

from soupkit.checkpoint.tensors import Extent, TensorSpec
from soupkit.errors import CheckpointError

_CONTIGUOUS = "save it contiguous"


def rows_of(spec: TensorSpec, start: int, stop: int, where: str) -> TensorSpec:
    """Return rows `start` to `stop` of a tensor."""
    _check_plain(spec, where)
    row = spec.nbytes // spec.shape[0]
    extents, position = [], 0
    for extent in spec.extents:
        begin = max(0, start * row - position)
        end = min(extent.nbytes, stop * row - position)
        if begin < end:
            extents.append(Extent(extent.file, extent.offset + begin, end - begin))
        position += extent.nbytes
    return TensorSpec(spec.dtype, (stop - start, *spec.shape[1:]), tuple(extents))


def joined(parts: Sequence[TensorSpec], where: str) -> TensorSpec:
    """Return the rows of all `parts` after one another."""
    for part in parts:
        _check_plain(part, where)
    first = parts[0]
    if any((part.dtype, part.shape[1:]) != (first.dtype, first.shape[1:]) for part in parts):
        raise CheckpointError(
            "has query, key and value that differ in shape or dtype", where,
            "save the model as transformers does, with save_pretrained",
        )  # fmt: skip
    rows = sum(part.shape[0] for part in parts)
    return TensorSpec(first.dtype, (rows, *first.shape[1:]), _adjoined(e for part in parts for e in part.extents))


def _adjoined(extents: Iterable[Extent]) -> tuple[Extent, ...]:
    """Return extents with those that follow one another in their file as one."""
    joined: list[Extent] = []
    for extent in extents:
        last = joined[-1] if joined else None
        if last is not None and last.file == extent.file and last.offset + last.nbytes == extent.offset:
            joined[-1] = Extent(last.file, last.offset, last.nbytes + extent.nbytes)
        else:
            joined.append(extent)
    return tuple(joined)


def transposed(spec: TensorSpec, where: str) -> TensorSpec:
    """Return a matrix with its rows as columns."""
    if len(spec.shape) == 2 and spec.strides == (1, spec.shape[0]):  # it is transposed already
        return TensorSpec(spec.dtype, spec.shape[::-1], spec.extents)
    _check_plain(spec, where)
    if len(spec.shape) != 2:
        raise CheckpointError("is no matrix", where, "save the model as its library does")
    rows, columns = spec.shape
    return TensorSpec(spec.dtype, (columns, rows), spec.extents, (1, columns))


def reshaped(spec: TensorSpec, shape: tuple[int, ...], where: str) -> TensorSpec:
    """Return a tensor in another shape of as many elements."""
    if spec.shape == shape:
        return spec
    _check_plain(spec, where)
    if prod(shape) != spec.numel:
        raise CheckpointError(f"has the shape {list(spec.shape)}", where, "save the model as its library does")
    return replace(spec, shape=shape)


def _check_plain(spec: TensorSpec, where: str) -> None:
    if spec.strides is not None:
        raise CheckpointError("is not stored row by row", where, _CONTIGUOUS)
