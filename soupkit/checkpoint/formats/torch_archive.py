"""The zip archives that torch.save writes: where the bytes of each tensor lie in the file.

A record `NAME/data.pkl` is the pickle, `NAME/data/KEY` holds the storage that the pickle calls KEY, uncompressed
(https://docs.pytorch.org/docs/stable/notes/serialization.html). An archive may lie within a larger file.
"""

import io
import re
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from soupkit.checkpoint.dtypes import BY_TORCH_NAME, DTYPES
from soupkit.checkpoint.formats.pickle_reader import Call, Name, Persistent, PickleError, read_data
from soupkit.checkpoint.tensors import Extent, TensorSpec
from soupkit.errors import CheckpointError
from soupkit.files import open_file

_MOST_PICKLE_BYTES = 1 << 28
_MOST_TEXT_BYTES = 1 << 24
_AGAIN = "the archive is damaged or was cut short; get it again"
_STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}  # fmt: skip
_UNTYPED = "UntypedStorage"
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_DIRECTORY = 1 << 4  # among a record's attributes: it is a folder, whose bytes torch does not read
_SETTINGS = {
    ".format_version": re.compile(rb"[0-9]{1,9}\s*"),
    ".storage_alignment": re.compile(rb"[0-9]{1,9}\s*"),
    "byteorder": re.compile(rb"[a-z]+"),
}


def conversion(path: Path) -> str:
    """Return the hint with the line that writes a pickle anew, as a zip archive of this machine's."""
    load, new = "torch.load(p, map_location='cpu', weights_only=True)", f"{path.with_suffix('')}.new.pt"
    code = f"import torch; p={str(path)!r}; torch.save({load}, {new!r})"
    return f'convert it, if you trust where it comes from: python -c "{code}"'


class Window(io.RawIOBase):
    """Bytes `start` to `stop` of an open file, as a file of its own."""

    def __init__(self, file: BinaryIO, start: int, stop: int) -> None:
        self._file, self._start, self._stop, self._position = file, start, stop, 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move as files do."""
        base = (0, self._position, self._stop - self._start)[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """Return the position from the window's start."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read what is left of the window into `buffer`, as far as it goes."""
        self._file.seek(self._start + self._position)
        data = self._file.read(max(0, min(len(buffer), self._stop - self._start - self._position)))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


@dataclass(frozen=True, slots=True)
class _Record:
    header: int  # where its local header begins in the file
    size: int
    stored: bool


class TorchArchive:
    """The records of one archive, which begins at byte `start` of the file `path`. Raises CheckpointError."""

    def __init__(self, path: Path, file: BinaryIO, start: int = 0, stop: int | None = None) -> None:
        self.path = path
        self._file = file
        self._start = start
        self._view = Window(file, start, file.seek(0, io.SEEK_END) if stop is None else stop)
        try:
            with zipfile.ZipFile(self._view) as archive:
                entries = archive.infolist()
                self._end = start + archive.start_dir
        except (zipfile.BadZipFile, ValueError, RuntimeError, OverflowError) as error:
            raise CheckpointError(
                f"is a damaged archive: {error}", path, "it may be cut short; get it again"
            ) from error
        self.names = {entry.filename.partition("/")[2] for entry in entries}
        self._prefix = entries[0].filename.partition("/")[0] if entries else ""
        self._records: dict[str, _Record] = {}
        self._dtypes: dict[str, str] = {}  # of storages
        for entry in entries:
            if start + entry.header_offset < 0:
                raise CheckpointError(f"says that {entry.filename!r} begins before the file", path, _AGAIN)
            stored = entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & 1
            if entry.external_attr & _DIRECTORY:
                raise CheckpointError(f"calls the record {entry.filename!r} a folder", path, _AGAIN)
            if entry.filename in self._records:
                raise CheckpointError(f"holds the record {entry.filename!r} twice", path, _AGAIN)
            self._records[entry.filename] = _Record(start + entry.header_offset, entry.file_size, stored)

    def ask_torch(self) -> None:
        """Refuse an archive that torch's own reader refuses: zip readers differ in what damage they overlook."""
        import torch

        try:
            with open_file(self.path) as file:
                reader: Any = torch._C.PyTorchFileReader(file)
                reader.get_all_records()
                reader.serialization_id()
                for name in self.names:
                    reader.get_record_offset(name)
                for name, content in _SETTINGS.items():
                    if name in self.names and not content.fullmatch(reader.get_record(name)):
                        raise CheckpointError(f"has a damaged record {name!r}", self.path, _AGAIN)
        except (RuntimeError, IndexError, ValueError) as error:
            said = str(error).partition(". This is an internal")[0].partition("\n")[0]
            raise CheckpointError(f"is a damaged archive: {said}", self.path, _AGAIN) from error

    def _locate(self, name: str) -> tuple[int, int]:
        """Return where the record `name` begins in the file, and its size in bytes."""
        full = f"{self._prefix}/{name}"
        record = self._records.get(full)
        if record is None:
            raise CheckpointError(f"lacks the record {name!r}", self.path, _AGAIN)
        if not record.stored:
            raise CheckpointError(f"is compressed ({full})", self.path, conversion(self.path))
        self._file.seek(record.header)
        header = self._file.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size:
            raise CheckpointError(f"ends within the record {name!r}", self.path, _AGAIN)
        magic, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
        begin = record.header + _LOCAL_HEADER.size + name_bytes + extra_bytes
        if magic != b"PK\3\4" or self._file.read(name_bytes) != full.encode() or begin + record.size > self._end:
            raise CheckpointError(f"has a damaged record {name!r}", self.path, _AGAIN)
        return begin, record.size

    def read(self, name: str) -> bytes:
        """Return the bytes of a small record. Raises CheckpointError where it is missing, cut or large."""
        begin, size = self._locate(name)
        if size > _MOST_PICKLE_BYTES:
            raise CheckpointError(
                f"has {size} bytes in {name!r}, where soupkit reads {_MOST_PICKLE_BYTES}", self.path,
                "save the state dict alone",
            )  # fmt: skip
        self._file.seek(begin)
        data = self._file.read(size)
        if len(data) < size:
            raise CheckpointError(f"ends within the record {name!r}", self.path, _AGAIN)
        return data

    def text(self, name: str) -> str:
        """Return the text of a record that may be compressed. Raises CheckpointError."""
        try:
            with (
                zipfile.ZipFile(self._view) as archive,
                archive.open(f"{self._prefix}/{name}") as record,
            ):
                return record.read(_MOST_TEXT_BYTES).decode("utf-8", "replace")
        except (
            zipfile.BadZipFile,
            zlib.error,
            ValueError,
            KeyError,
            NotImplementedError,
            RuntimeError,
            EOFError,
        ) as error:
            raise CheckpointError(f"has a damaged record {name!r}: {error}", self.path, _AGAIN) from error

    def document(self) -> object:
        """Return what the archive's pickle describes. Raises CheckpointError."""
        try:
            return read_data(self.read("data.pkl"))
        except PickleError as error:
            raise CheckpointError(str(error), self.path, _AGAIN) from error

    def spec(self, name: str, tensor: Call) -> TensorSpec:
        """Return where the tensor `name` lies. Raises CheckpointError, about it, for one that cannot be averaged as it
        lies there."""
        where = f"{self.path}, tensor {name!r}"
        kind, storage, offset, shape, strides = _parts(tensor, where)
        dtype, key, nbytes = _storage(kind, storage, where)
        claimed = _UNTYPED if kind else dtype
        if self._dtypes.setdefault(key, claimed) != claimed:  # torch gives each the dtype of the first
            raise CheckpointError(f"shares the storage {key!r} with a tensor of another dtype", where, _AGAIN)
        begin, size = self._locate(f"data/{key}")
        if size != nbytes:
            raise CheckpointError(f"has a storage of {size} bytes instead of {nbytes}", where, _AGAIN)
        itemsize = DTYPES[dtype].itemsize
        numel = 0 if 0 in shape else 1
        span = numel + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) if numel else 0
        if (offset + span) * itemsize > nbytes:
            raise CheckpointError("reaches beyond the end of its storage", where, _AGAIN)
        start = begin + offset * itemsize
        return TensorSpec(
            dtype,
            shape,
            (Extent(self.path, start, span * itemsize),),
            None if _is_row_major(shape, strides) else strides,
        )


def is_tensor(value: object) -> bool:
    """Whether what a pickle describes is a tensor, or a parameter, of any kind."""
    return isinstance(value, Call) and isinstance(value.function, Name) and _tensor_function(value.function)


def _tensor_function(function: Name) -> bool:
    module, name = function.module, function.name
    return (module in ("torch._utils", "torch._tensor") and name.startswith("_rebuild_")) or name in _SHARDED


_SHARDED = ("ShardedTensor", "DTensor")
_COUNTS = {  # of the arguments with which torch's functions can be called
    "torch._utils._rebuild_parameter": (3,),
    "torch._utils._rebuild_parameter_with_state": (4,),
    "torch._tensor._rebuild_from_type_v2": (4,),
    "torch._utils._rebuild_tensor": (4,),
    "torch._utils._rebuild_tensor_v2": (6, 7),
    "torch._utils._rebuild_tensor_v3": (7, 8),
}


def _parts(tensor: Call, where: str) -> tuple[str, object, int, tuple[int, ...], tuple[int, ...]]:
    """Return a tensor's dtype by torch's name ("" where its storage says it), storage, offset, shape and strides."""
    for _ in range(8):  # a parameter holds a tensor, a subclass the call that makes one
        function, arguments = str(tensor.function), tensor.arguments
        if not isinstance(arguments, tuple) or len(arguments) not in _COUNTS.get(function, ()):
            break
        if function.startswith("torch._utils._rebuild_parameter"):
            if not isinstance(arguments[0], Call):
                break
            tensor = arguments[0]
        elif function == "torch._tensor._rebuild_from_type_v2":
            tensor = Call(arguments[0], arguments[2])
        elif function == "torch._utils._rebuild_tensor":
            return _checked("", arguments, (), where)
        elif not (isinstance(arguments[4], bool) and isinstance(arguments[5], dict)):
            break  # whether it requires a gradient, and its hooks
        elif function == "torch._utils._rebuild_tensor_v2":
            return _checked("", arguments[:4], arguments[6:], where)
        else:
            return _checked(_dtype_name(arguments[6]), arguments[:4], arguments[7:], where)
    what, hint = _refusal(str(tensor.function))
    raise CheckpointError(what, where, hint)


def _refusal(function: str) -> tuple[str, str]:
    """Return what is wrong with a tensor that `function` would build, and what to do about it."""
    name = function.rpartition(".")[2]
    if name in _SHARDED:
        return (
            f"is one rank's part of a sharded tensor ({name})",
            "gather it where it was trained, with torch.distributed.checkpoint.state_dict.get_model_state_dict(model, "
            "options=StateDictOptions(full_state_dict=True, cpu_offload=True)), and save that",
        )  # fmt: skip
    kinds = {"_rebuild_sparse_tensor": "a sparse tensor", "_rebuild_qtensor": "a quantized tensor"}
    return (
        f"is {kinds.get(name, f'a tensor of a kind that soupkit does not read ({name})')}",
        "save it as a plain (strided) tensor: t.to_dense(), or t.dequantize()",
    )  # fmt: skip


def _dtype_name(dtype: object) -> str:
    return dtype.name if isinstance(dtype, Name) and dtype.module == "torch" else "unknown"


def _checked(
    dtype: str, parts: tuple[Any, ...], metadata: tuple[Any, ...], where: str
) -> tuple[str, object, int, tuple[int, ...], tuple[int, ...]]:
    storage, offset, shape, strides = parts
    shape, strides = _sizes(shape), _sizes(strides)
    if not _is_size(offset) or shape is None or strides is None or len(shape) != len(strides):
        raise CheckpointError("has no sound offset, shape and strides", where, _AGAIN)
    if any(metadata) and metadata[0]:
        raise CheckpointError("is a negated or conjugated view", where, "save t.resolve_neg().resolve_conj().clone()")
    return dtype, storage, offset, shape, strides


def _sizes(value: object) -> tuple[int, ...] | None:
    if isinstance(value, Call) and str(value.function) == "torch.Size" and isinstance(value.arguments, tuple):
        value = value.arguments[0] if len(value.arguments) == 1 else None
    return value if isinstance(value, tuple) and all(_is_size(n) for n in value) else None


def _is_size(n: object) -> bool:
    return isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**63


def _storage(dtype: str, storage: object, where: str) -> tuple[str, str, int]:
    """Return a storage's safetensors dtype, its key and its size in bytes."""
    key = storage.key if isinstance(storage, Persistent) else None
    if not isinstance(key, tuple) or len(key) < 5 or key[0] != "storage" or not isinstance(key[1], Name):
        raise CheckpointError("has no storage in the archive", where, _AGAIN)
    _, kind, name, _, count = key[:5]
    named = BY_TORCH_NAME[dtype].name if dtype in BY_TORCH_NAME else None
    if not dtype:
        named = _STORAGES.get(kind.name)
    if named is None:
        raise CheckpointError(
            f"is of {dtype or kind.name}, which soupkit does not read", where,
            f"convert it to one of {', '.join(d.torch_name for d in DTYPES.values())}",
        )  # fmt: skip
    if kind.module not in ("torch", "torch.storage") or not isinstance(name, str) or not _is_size(count):
        raise CheckpointError("has no sound storage in the archive", where, _AGAIN)
    itemsize = 1 if kind.name == _UNTYPED else DTYPES[_STORAGES.get(kind.name, named)].itemsize
    return named, name, count * itemsize


def _is_row_major(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    expected = 1
    for n, stride in zip(reversed(shape), reversed(strides), strict=True):
        if n != 1 and stride != expected:
            return 0 in shape
        expected *= n
    return True
