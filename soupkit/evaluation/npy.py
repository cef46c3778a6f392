"""Vectors of numbers in numpy's format, as they lie in shards: nothing is allocated before all of it is checked."""

import io
from math import prod

import numpy as np

_MOST_NUMBERS = 1 << 20
_MOST_HEADER = 1024  # bytes; that of a vector has about a hundred


def read_vector(data: bytes) -> np.ndarray:
    """Return the numbers that `data`, a file in numpy's format, holds: bool, int or float [n].

    Raises ValueError for another type of elements, for more than a million of them, and for a file that has more or
    fewer bytes than its header says.
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file, max_header_size=_MOST_HEADER)
    except Exception as error:  # the header is a literal of Python, whose parser raises many things
        raise ValueError(f"no array in numpy's format: {type(error).__name__}: {error}"[:200]) from error
    if dtype.hasobject or dtype.names is not None or dtype.kind not in "biuf":
        raise ValueError(f"an array of {dtype} where numbers should be")
    count, nbytes = prod(shape), len(data) - file.tell()
    if not 0 <= count <= _MOST_NUMBERS:
        raise ValueError(f"an array of shape {shape}, which is more than {_MOST_NUMBERS:,} numbers")
    if nbytes != count * dtype.itemsize:
        raise ValueError(
            f"{nbytes} bytes where an array of shape {shape} and type {dtype} has {count * dtype.itemsize}"
        )
    return np.frombuffer(data, dtype, count, file.tell())


def read_integers(data: bytes) -> tuple[int, ...]:
    """Return the whole numbers that `data`, a file in numpy's format, holds. Raises ValueError, also for fractions."""
    numbers = read_vector(data)
    if not np.isfinite(numbers).all() or (numbers != np.floor(numbers)).any() or (np.abs(numbers) >= 2**53).any():
        raise ValueError("an array with numbers that are not whole")
    return tuple(int(number) for number in numbers)
