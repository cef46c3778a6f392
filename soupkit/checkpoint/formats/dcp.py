"""The metadata of a folder that torch.distributed.checkpoint has written, read without running what it may say.

`.metadata` is a pickle of torch's own few classes. torch reads it with `pickle.load`, which runs whatever a stranger
has put in it. Here the names of those classes stand for empty ones, made anew for every file, any other name is
refused, and torch's objects are built from what they hold once all of it has been checked.
"""

import pickle
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from soupkit.errors import CheckpointError
from soupkit.files import what_to_do

METADATA_NAME = ".metadata"
LIMIT = 1 << 28  # bytes of a metadata file; a chunk of a tensor takes about 100, so that this is two million of them
_DIMENSIONS = 64
_METADATA = "torch.distributed.checkpoint.metadata"
_RECORDS = {
    (_METADATA, "Metadata"),
    (_METADATA, "TensorStorageMetadata"),
    (_METADATA, "BytesStorageMetadata"),
    (_METADATA, "ChunkStorageMetadata"),
    (_METADATA, "TensorProperties"),
    (_METADATA, "MetadataIndex"),
    (_METADATA, "StorageMeta"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
}
_HINT = "it may be cut short, or of another program; get it again"


def read_metadata(folder: Path, *, files: bool = True) -> Metadata:
    """Return the metadata of the checkpoint in `folder`: names, shapes, dtypes, and where the chunks of tensors lie.

    No code of the file runs. Every chunk lies inside of a regular file of `folder` itself; without `files` that is left
    to whoever opens them. Raises CheckpointError for
    what is damaged, larger than LIMIT, of other classes than torch's, or points elsewhere.
    """
    path = folder / METADATA_NAME
    try:
        if not path.is_file():  # a pipe would never end
            raise CheckpointError("is missing, or no file", path, "a whole checkpoint of torch.distributed has one")
        size = path.stat().st_size
        if size > LIMIT:
            raise CheckpointError(f"is larger than {LIMIT >> 20} MiB", path, "such a checkpoint is not read")
        metadata = _metadata(_Unpickler(BytesIO(path.read_bytes())).load(), size)
        if files:
            _check_files(folder, metadata)
        return metadata
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", path, what_to_do(error)) from error
    except _RefusedError as error:
        raise CheckpointError(f"is no metadata of a checkpoint: {error}", path, _HINT) from error
    except Exception as error:  # a damaged pickle may raise anything, and nothing of it is torch's
        raise CheckpointError(f"is damaged: {type(error).__name__}: {error!s:.200}", path, _HINT) from error


class _RefusedError(Exception):
    """The file says something that torch's own metadata never says."""


# The one written in Python: the other gives a list the length that the file names, of 32 GB if it says so.
class _Unpickler(pickle._Unpickler):
    """Gives stand-ins for the names that torch's metadata are made of, and refuses all others."""

    def __init__(self, file: BytesIO) -> None:
        super().__init__(file)
        self._stand_ins: dict[tuple[str, str], Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        key = module, name
        if key not in self._stand_ins:
            self._stand_ins[key] = _stand_in(module, name)
        return self._stand_ins[key]

    def persistent_load(self, identity: Any) -> Any:
        raise _RefusedError("it refers to something outside of it")


def _stand_in(module: str, name: str) -> Any:
    """Return what a name of the pickle stands for; made for one file, so that nothing outlives it."""
    if (module, name) in _RECORDS:
        return type(name, (), {"__setstate__": lambda self, state: self.__dict__.update(state=state)})
    makers: dict[tuple[str, str], Callable[..., Any]] = {
        ("torch", "Size"): lambda numbers=(): tuple(numbers),
        ("torch.serialization", "_get_layout"): lambda name: name,
        (_METADATA, "_MEM_FORMAT_ENCODING"): lambda number: number,
        ("pathlib", "PosixPath"): lambda *parts: str(PurePosixPath(*parts)),
        ("pathlib._local", "PosixPath"): lambda *parts: str(PurePosixPath(*parts)),
        ("collections", "OrderedDict"): lambda items=(): dict(items),
    }
    if (module, name) in makers:
        return makers[module, name]
    dtype = getattr(torch, name, None) if module == "torch" else None
    if isinstance(dtype, torch.dtype):
        return dtype
    raise _RefusedError(f"it names {module[:100]}.{name[:100]}")


def _fields(record: Any, kind: str) -> dict[str, Any]:
    """Return the fields of a record that should be a `kind`."""
    if type(record).__name__ != kind:
        raise _RefusedError(f"a {type(record).__name__:.100} where a {kind} should be")
    state = vars(record).get("state", {})
    if isinstance(state, tuple) and kind == "TensorProperties":
        return dict(zip(("dtype", "layout"), state, strict=False))
    if not isinstance(state, dict):
        raise _RefusedError(f"a {kind} without its fields")
    return state


def _is(value: Any, kind: type | tuple[type, ...], what: str) -> Any:
    """Return `value` if it is a `kind`; a bool is no int."""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _RefusedError(f"a {type(value).__name__:.100} where {what} should be")
    return value


def _size(value: Any) -> torch.Size:
    numbers = _is(value, tuple, "a shape")
    if len(numbers) > _DIMENSIONS or not all(type(n) is int and 0 <= n < 1 << 62 for n in numbers):
        raise _RefusedError("a shape that no tensor has")
    return torch.Size(numbers)


def _metadata(record: Any, nbytes: int) -> Metadata:
    """Return torch's object for what was read from a file of `nbytes`."""
    fields = _fields(record, "Metadata")
    left = iter(range(nbytes))  # more chunks than bytes are one chunk again and again
    entries = {
        _is(name, str, "a name"): _entry(entry, left)
        for name, entry in _is(fields.get("state_dict_metadata"), dict, "a state dict").items()
    }
    storage = {
        _index(index): _storage(info) for index, info in _is(fields.get("storage_data"), dict, "the storage").items()
    }
    planner = {
        _is(name, str, "a name"): tuple(_is(part, (str, int), "a key") for part in _is(parts, tuple, "a path of keys"))
        for name, parts in _is(fields.get("planner_data") or {}, dict, "the plan").items()
    }
    return Metadata(entries, planner_data=planner, storage_data=storage, storage_meta=StorageMeta())


def _entry(record: Any, left: Iterator[int]) -> TensorStorageMetadata | BytesStorageMetadata:
    if type(record).__name__ == "BytesStorageMetadata":
        return BytesStorageMetadata()
    fields = _fields(record, "TensorStorageMetadata")
    properties = _fields(fields.get("properties"), "TensorProperties")
    size = _size(fields.get("size"))
    chunks = []
    for chunk in _is(fields.get("chunks"), list, "a list of chunks"):
        if next(left, None) is None:
            raise _RefusedError("more chunks than bytes")
        part = _fields(chunk, "ChunkStorageMetadata")
        offsets, sizes = _size(part.get("offsets")), _size(part.get("sizes"))
        if not len(offsets) == len(sizes) == len(size) or any(
            o + s > n for o, s, n in zip(offsets, sizes, size, strict=True)
        ):
            raise _RefusedError("a chunk outside of its tensor")
        chunks.append(ChunkStorageMetadata(offsets, sizes))
    dtype = _is(properties.get("dtype"), torch.dtype, "a dtype")
    return TensorStorageMetadata(TensorProperties(dtype=dtype), size, chunks)


def _index(record: Any) -> MetadataIndex:
    fields = _fields(record, "MetadataIndex")
    offset, hint = fields.get("offset"), fields.get("index")
    return MetadataIndex(
        _is(fields.get("fqn"), str, "a name"),
        None if offset is None else _size(offset),
        None if hint is None else _is(hint, int, "a number"),
    )


def _storage(record: Any) -> _StorageInfo:
    fields = _fields(record, "_StorageInfo")
    name = _is(fields.get("relative_path"), str, "the name of a file")
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise _RefusedError(f"the file {name!r:.100} lies outside of the folder")
    if fields.get("transform_descriptors"):
        raise _RefusedError("its chunks are packed")
    offset, length = (_is(fields.get(key), int, "a number of bytes") for key in ("offset", "length"))
    return _StorageInfo(name, offset, length)


def _check_files(folder: Path, metadata: Metadata) -> None:
    """Refuse chunks that are not inside of a regular file of the folder."""
    storage: Mapping[MetadataIndex, _StorageInfo] = metadata.storage_data
    sizes: dict[str, int] = {}
    for info in storage.values():
        path = folder / info.relative_path
        if info.relative_path not in sizes:
            if path.is_symlink() or not path.is_file():
                raise CheckpointError("is missing, or no file", path, "a part of the checkpoint; get it again")
            sizes[info.relative_path] = path.stat().st_size
        if info.offset < 0 or info.length < 0 or info.offset + info.length > sizes[info.relative_path]:
            raise CheckpointError("is cut short", path, "get it again, or go on from the checkpoint before")
