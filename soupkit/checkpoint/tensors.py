"""Where a tensor lies: the small values that stand for weights until their bytes are needed."""

from dataclasses import dataclass
from math import prod
from pathlib import Path

from soupkit.checkpoint.dtypes import DTYPES


@dataclass(frozen=True, slots=True)
class Extent:
    """A run of bytes in a file."""

    file: Path
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a checkpoint: its safetensors dtype name, its shape, and the bytes it is made of.

    Most tensors are one extent. Several extents follow each other in row-major order (an in-projection joined
    from its query, key and value parts). `strides` (in elements, over the single extent) is given where the
    stored order is not row-major: a transposed projection, or a view in a pickle.

    >>> spec = TensorSpec("BF16", (3, 4), (Extent(Path("model.safetensors"), 128, 24),))
    >>> spec.numel, spec.nbytes, spec.is_float, spec.offset
    (12, 24, True, 128)
    """

    dtype: str
    shape: tuple[int, ...]
    extents: tuple[Extent, ...]
    strides: tuple[int, ...] | None = None

    @property
    def numel(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return DTYPES[self.dtype].itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor in row-major order."""
        return self.numel * self.itemsize

    @property
    def is_float(self) -> bool:
        """Whether the tensor can be averaged."""
        return DTYPES[self.dtype].is_float

    @property
    def file(self) -> Path:
        """The file that holds the tensor's first byte."""
        return self.extents[0].file

    @property
    def offset(self) -> int:
        """Position of the tensor's first byte in its file."""
        return self.extents[0].offset
