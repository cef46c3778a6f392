"""A weight with an adapter in it, base + scale * B A, made row by row as it is read: nothing of it is kept.

Products and sums are taken in float64 and rounded once, to the base's dtype, in blocks of rows that do not depend on
what is read: the bytes are the same however they are asked for.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from soupkit.checkpoint.dtypes import DTYPES
from soupkit.checkpoint.reading import read_bytes, read_tensor
from soupkit.checkpoint.sources import Source
from soupkit.checkpoint.tensors import TensorSpec

if TYPE_CHECKING:
    import torch

_BLOCK = 1 << 16  # elements that are made at once; in float64 they stay in a processor's cache
_LOADED = 8  # updates whose factors are held at a time, one for each worker


@dataclass(frozen=True, slots=True)
class Update:
    """What is added to a weight, by the specs of its parts: B (rows x r) times A (r x columns) times `scale`, or B
    alone where A is None. `magnitude` are the lengths of the rows afterwards. `transposed`: the weight is stored with
    its rows as columns."""

    a: TensorSpec | None
    b: TensorSpec
    scale: float
    magnitude: TensorSpec | None = None
    transposed: bool = False


@dataclass(frozen=True, slots=True)
class _Loaded:
    """Factors in float64, B with its scale, and what each row or column is multiplied by in the end."""

    a: "torch.Tensor"
    b: "torch.Tensor"
    lengths: "torch.Tensor | None"


class LoadedUpdates:
    """The factors of the last few updates that were read, shared by the weights of an adapter."""

    def __init__(self) -> None:
        self._loaded: OrderedDict[Path, _Loaded] = OrderedDict()
        self._lock = Lock()

    def get(self, path: Path, load: Callable[[], _Loaded]) -> _Loaded:
        """Return what `load` makes for the weight called `path`, or made of late."""
        with self._lock:
            if path not in self._loaded:
                self._loaded[path] = load()
                if len(self._loaded) > _LOADED:
                    self._loaded.popitem(last=False)
            self._loaded.move_to_end(path)
            return self._loaded[path]


@dataclass(frozen=True, slots=True)
class UpdatedWeight:
    """The bytes of `weight` with an update, as a source. `files` are those that the weight and the update lie in."""

    path: Path
    weight: TensorSpec
    update: Update
    files: Mapping[Path, Source]
    loaded: LoadedUpdates
    descriptor: None = None

    @property
    def size(self) -> int:
        """Bytes of the weight."""
        return self.weight.nbytes

    @property
    def stamp(self) -> list[Any]:
        """What is done to the weight; the files that it lies in have stamps of their own."""
        return [str(self.path), self.update.scale, self.update.transposed]

    @property
    def _rows(self) -> int:
        return self.weight.shape[0]

    @property
    def _columns(self) -> int:
        return self.weight.numel // self._rows

    def read(self, offset: int, view: memoryview) -> int:
        """Fill `view` with bytes from `offset` on; return how many, 0 at the end. Raises CheckpointError."""
        row = self._columns * self.weight.itemsize
        step = self._step()
        out = np.frombuffer(view, np.uint8)
        stop = min(offset + len(out), self.size)
        for first in range(offset // row // step * step, -(-stop // row), step):
            last = min(first + step, self._rows)
            begin, end = max(offset, first * row), min(stop, last * row)
            if begin < end:
                made = self._made(first, last)
                out[begin - offset : end - offset] = made[begin - first * row : end - first * row]
        return max(stop - offset, 0)

    def _step(self) -> int:
        return max(1, _BLOCK // self._columns)

    def _made(self, first: int, last: int) -> np.ndarray:
        """Return rows `first` to `last` with the update, as bytes."""
        import torch

        loaded = self.loaded.get(self.path, self._load)
        with torch.inference_mode():
            rows = self._sum(loaded, first, last)
            if loaded.lengths is not None:
                factor = loaded.lengths if self.update.transposed else loaded.lengths[first:last, None]
                rows.mul_(factor)
            made = rows.to(getattr(torch, DTYPES[self.weight.dtype].torch_name))
        return made.reshape(-1).view(torch.uint8).numpy()

    def _sum(self, loaded: _Loaded, first: int, last: int) -> "torch.Tensor":
        """Return rows `first` to `last` of the weight and its update, in float64."""
        base = self._base(first, last)
        if self.update.transposed:
            return base.addmm_(loaded.a[:, first:last].T, loaded.b.T)
        return base.addmm_(loaded.b[first:last], loaded.a)

    def _base(self, first: int, last: int) -> "torch.Tensor":
        """Return rows `first` to `last` of the weight as it is in the base, in float64."""
        import torch

        columns, itemsize = self._columns, self.weight.itemsize
        stored = np.empty((last - first) * columns * itemsize, np.uint8)
        read_bytes(self.files, self.weight, str(self.path), first * columns * itemsize, stored)
        dtype = getattr(torch, DTYPES[self.weight.dtype].torch_name)
        return torch.from_numpy(stored).view(dtype).view(last - first, columns).double()

    def _load(self) -> _Loaded:
        import torch

        update = self.update

        def read(spec: TensorSpec) -> "torch.Tensor":
            return read_tensor(self.files, spec, str(self.path)).double()

        b = read(update.b).reshape(update.b.shape[0], -1).mul_(update.scale)
        a = read(update.a).reshape(b.shape[1], -1) if update.a is not None else torch.ones(1, 1, dtype=torch.float64)
        if update.magnitude is None:
            return _Loaded(a, b, None)
        unscaled = _Loaded(a, b, None)
        squares = torch.zeros(self._columns if update.transposed else self._rows, dtype=torch.float64)
        for first in range(0, self._rows, self._step()):
            last = min(first + self._step(), self._rows)
            rows = self._sum(unscaled, first, last).square_()
            if update.transposed:
                squares += rows.sum(0)
            else:
                squares[first:last] = rows.sum(1)
        return _Loaded(a, b, read(update.magnitude).reshape(-1) / squares.sqrt())

    def check_unchanged(self) -> None:
        """Nothing: the files that it is made of are looked at themselves."""

    def close(self) -> None:
        """Nothing: the files that it is made of are closed themselves."""
