"""Pickled checkpoints (.pt, .pth, .bin): where their tensors lie, without running what a pickle may contain.

They are opened with `torch.load(mmap=True, weights_only=True)` and never any other way, under fake tensors: torch then
reads the pickle alone and says at which byte of the file each storage begins
(https://docs.pytorch.org/docs/stable/notes/serialization.html). The weights are read by position, as those of any file.
"""

import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from soupkit.checkpoint.dtypes import BY_TORCH_NAME
from soupkit.checkpoint.formats.table import FileFormat, Tensors
from soupkit.checkpoint.tensors import Extent, TensorSpec
from soupkit.errors import CheckpointError

_NESTED = ("state_dict", "model_state_dict", "model", "module")


def read_pickle(path: Path) -> tuple[Tensors, dict[str, str]]:
    """Return the tensors of the zip-format pickle at `path`, and no metadata.

    A state dict may stand alone or under one of the usual keys ("state_dict", "model", ...). Raises CheckpointError for
    older pickle formats and TorchScript archives, with the line that converts them; for pickles that hold anything but
    tensors and plain values; for archives that are damaged.
    """
    _check_archive(path)
    document = _load(path)
    state = _state_dict(path, document)
    size = path.stat().st_size
    return {name: _spec(path, name, tensor, size) for name, tensor in state.items()}, {}


def _check_archive(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(2)
        if magic != b"PK":
            raise CheckpointError(
                "is not a zip-format pickle", path, _conversion(path, "torch.load(p, weights_only=True)")
            )
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except OSError as error:
        raise CheckpointError(
            f"cannot be read: {error.strerror}", path, "check the path and who may read it"
        ) from error
    except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError) as error:
        raise CheckpointError(f"is a damaged archive: {error}", path, "it may be cut short; get it again") from error
    names = {entry.filename.partition("/")[2] for entry in entries}
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        raise CheckpointError("is a TorchScript archive", path, _conversion(path, "torch.jit.load(p).state_dict()"))
    if "data.pkl" not in names:
        raise CheckpointError("is a zip archive without a pickle", path, "it was not written by torch.save")
    if packed := [e.filename for e in entries if e.compress_type != zipfile.ZIP_STORED]:
        raise CheckpointError(
            f"is compressed ({packed[0]})", path, _conversion(path, "torch.load(p, weights_only=True)")
        )


def _conversion(path: Path, expression: str) -> str:
    code = f"import torch; p='{path}'; torch.save({expression}, '{path.with_suffix('')}.new.pt')"
    return f'convert it, if you trust where it comes from: python -c "{code}"'


def _load(path: Path) -> Any:
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    try:
        with FakeTensorMode():
            return torch.load(path, mmap=True, weights_only=True, map_location="cpu")
    except UnpicklingError as error:
        reason = next((line for line in str(error).splitlines() if "GLOBAL" in line or "nsupported" in line), "")
        raise CheckpointError(
            f"holds more than tensors and plain values, and was not opened: {reason.strip() or 'see torch.load'}",
            path,
            "a pickle can run code; save the state dict alone, or better as safetensors",
        ) from error
    except (RuntimeError, EOFError, KeyError, ValueError, TypeError, AttributeError, IndexError, OSError) as error:
        first = (str(error).splitlines() or [""])[0][:200]
        raise CheckpointError(f"cannot be opened: {first}", path, "the archive is damaged; get it again") from error


def _state_dict(path: Path, document: Any) -> dict[str, Any]:
    import torch

    for _ in range(2):
        if isinstance(document, dict) and not any(isinstance(v, torch.Tensor) for v in document.values()):
            inner = next((document[k] for k in _NESTED if isinstance(document.get(k), dict)), None)
            document = inner if inner is not None else document
    if not isinstance(document, dict) or not any(isinstance(v, torch.Tensor) for v in document.values()):
        raise CheckpointError(
            "holds no state dict", path, f"save one alone, or under one of the keys {', '.join(_NESTED)}"
        )
    if odd := [k for k, v in document.items() if not isinstance(k, str) or not isinstance(v, torch.Tensor)]:
        raise CheckpointError(f"has an entry that is no tensor: {str(odd[0])[:80]!r}", path, "save a state dict alone")
    return document


def _spec(path: Path, name: str, tensor: Any, size: int) -> TensorSpec:
    where = f"{path}, tensor {name!r}"
    dtype = BY_TORCH_NAME.get(str(tensor.dtype).removeprefix("torch."))
    if dtype is None or tensor.layout != _strided():
        raise CheckpointError(
            f"is a {tensor.layout} tensor of {tensor.dtype}, which soupkit does not read",
            where,
            "save it as a plain (strided) tensor of floats, integers or booleans",
        )
    storage = tensor.untyped_storage()
    begin = getattr(storage, "_checkpoint_offset", None)
    if begin is None and tensor.numel():
        raise CheckpointError("has bytes of which torch does not say where they lie", where, "save it as safetensors")
    start = (begin or 0) + tensor.storage_offset() * dtype.itemsize
    shape, strides = tuple(tensor.shape), tuple(tensor.stride())
    span = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) if tensor.numel() else 0
    inside = tensor.storage_offset() * dtype.itemsize + span * dtype.itemsize <= storage.nbytes()
    if not inside or start + span * dtype.itemsize > size or any(s < 0 for s in strides):
        raise CheckpointError("reaches beyond the end of its storage", where, "the archive is damaged; get it again")
    return TensorSpec(
        dtype.name, shape, (Extent(path, start, span * dtype.itemsize),), None if tensor.is_contiguous() else strides
    )


def _strided() -> Any:
    import torch

    return torch.strided


PICKLE = FileFormat(
    name="pickle",
    summary="a zip archive that torch.save writes, opened without running what a pickle may contain",
    suffixes=(".pt", ".pth", ".bin"),
    read=read_pickle,
)
