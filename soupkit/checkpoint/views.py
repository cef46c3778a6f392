"""Zero-copy views: the bytes of one tensor as a read-only array on a memory map of its file."""

import mmap

import numpy as np

from soupkit.checkpoint.tensors import TensorSpec


def map_bytes(descriptor: int, spec: TensorSpec) -> np.ndarray | None:
    """Map the single extent of `spec`; 1-D uint8. None where its position does not suit its element type.

    The map is private and writable, so that torch accepts it without a warning; writes never reach the file.
    """
    (extent,) = spec.extents
    if extent.nbytes == 0 or extent.offset % spec.itemsize:
        return None
    base = extent.offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    skip = extent.offset - base
    mapping = mmap.mmap(descriptor, skip + extent.nbytes, mmap.MAP_PRIVATE, offset=base)
    return np.frombuffer(mapping, dtype=np.uint8, offset=skip, count=extent.nbytes)
