"""Reads the bytes of a tensor from the sources that it lies in."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from soupkit.checkpoint.dtypes import DTYPES
from soupkit.checkpoint.sources import Source
from soupkit.checkpoint.tensors import TensorSpec
from soupkit.errors import CheckpointError

if TYPE_CHECKING:
    import torch


def read_tensor(files: Mapping[Path, Source], spec: TensorSpec, name: str) -> "torch.Tensor":
    """Return a copy of a tensor, called `name` in errors. Raises CheckpointError as `read_bytes` does."""
    import torch

    tensor = torch.empty(spec.shape, dtype=getattr(torch, DTYPES[spec.dtype].torch_name))
    read_bytes(files, spec, name, 0, tensor.reshape(-1).view(torch.uint8).numpy())
    return tensor


def read_bytes(files: Mapping[Path, Source], spec: TensorSpec, name: str, start: int, buffer: np.ndarray) -> None:
    """Fill `buffer` (1-D uint8) with the tensor's row-major bytes from byte `start` on.

    Raises CheckpointError, naming file and tensor, when the file ends early or cannot be read. Safe to call
    from several threads at once.
    """
    if spec.strides is not None:
        buffer[:] = _gathered(files, spec, name)[start : start + len(buffer)]
        return
    view, position = memoryview(buffer), 0
    for extent in spec.extents:
        skip = max(0, start - position)
        if skip < extent.nbytes and view.nbytes:
            n = min(extent.nbytes - skip, view.nbytes)
            _read(files, name, extent.file, extent.offset + skip, view[:n])
            view = view[n:]
        position += extent.nbytes


def _read(files: Mapping[Path, Source], name: str, file: Path, offset: int, view: memoryview) -> None:
    source = files.get(file)
    if source is None:
        raise CheckpointError(
            "cannot be read: only its header was fetched, or it is closed",
            f"{file}, tensor {name!r}",
            "open it with open_checkpoint",
        )
    while view.nbytes:
        try:
            n = source.read(offset, view)
        except OSError as error:
            raise CheckpointError(
                f"cannot be read at byte {offset}: {error.strerror}",
                f"{file}, tensor {name!r}",
                "check the disk that it lies on",
            ) from error
        if n == 0:
            raise CheckpointError(
                f"ends at byte {offset}, inside the tensor; it had {source.size} bytes when it was opened",
                f"{file}, tensor {name!r}",
                "the file was cut short while it was read; get it again",
            )
        view, offset = view[n:], offset + n


def _gathered(files: Mapping[Path, Source], spec: TensorSpec, name: str) -> np.ndarray:
    """Return the row-major bytes of a tensor that is stored in another order. Reads the whole tensor."""
    assert spec.strides is not None
    (extent,) = spec.extents
    stored = np.empty(extent.nbytes, dtype=np.uint8)
    _read(files, name, extent.file, extent.offset, memoryview(stored))
    elements = stored.view(f"V{spec.itemsize}")
    byte_strides = tuple(s * spec.itemsize for s in spec.strides)
    ordered = np.lib.stride_tricks.as_strided(elements, spec.shape, byte_strides, writeable=False)
    return np.ascontiguousarray(ordered).reshape(-1).view(np.uint8)
