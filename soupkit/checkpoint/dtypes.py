"""The element types of tensors on disk, under the names that safetensors gives them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DType:
    """One element type: its safetensors name, its torch name, bytes per element, and its width as a float.

    `float_rank` orders the types that a soup may be written in (0: not one of them); the widest of several
    ingredients is the one of highest rank. bfloat16 and float16 share a width, and so do the two of 8 bits: neither
    holds the other.
    """

    name: str
    torch_name: str
    itemsize: int
    float_rank: int = 0

    @property
    def is_float(self) -> bool:
        """Whether tensors of this type can be averaged."""
        return self.float_rank > 0


DTYPES = {
    d.name: d
    for d in (
        DType("F64", "float64", 8, 4),
        DType("F32", "float32", 4, 3),
        DType("F16", "float16", 2, 2),
        DType("BF16", "bfloat16", 2, 2),
        DType("F8_E4M3", "float8_e4m3fn", 1, 1),
        DType("F8_E5M2", "float8_e5m2", 1, 1),
        DType("I64", "int64", 8),
        DType("I32", "int32", 4),
        DType("I16", "int16", 2),
        DType("I8", "int8", 1),
        DType("U64", "uint64", 8),
        DType("U32", "uint32", 4),
        DType("U16", "uint16", 2),
        DType("U8", "uint8", 1),
        DType("BOOL", "bool", 1),
    )
}

BY_TORCH_NAME = {d.torch_name: d for d in DTYPES.values()}
FLOATS = tuple(d for d in DTYPES.values() if d.is_float)


def widest(names: set[str]) -> str:
    """Return the safetensors name of the float type that loses nothing of any of `names`.

    bfloat16 with float16 gives float32, since neither holds the other's range and precision; the two types of 8 bits
    give float16, which holds both.
    """
    rank = max(DTYPES[n].float_rank for n in names)
    top = [n for n in sorted(names) if DTYPES[n].float_rank == rank]
    if len(top) == 1:
        return top[0]
    return "F16" if rank == 1 else "F32"
