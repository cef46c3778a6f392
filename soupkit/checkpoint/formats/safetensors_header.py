"""Reads the header of a safetensors file as the untrusted input that it is.

The rules are those of the safetensors format (https://github.com/huggingface/safetensors, "Format"), and three that
its own reader lets pass: duplicate names, unknown fields, and metadata that is not text.
"""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError, safe_open

from soupkit.checkpoint.dtypes import DTYPES
from soupkit.checkpoint.formats.table import FileFormat, ReadRange
from soupkit.checkpoint.formats.weight_files import SAFETENSORS
from soupkit.checkpoint.tensors import Extent, TensorSpec
from soupkit.errors import CheckpointError
from soupkit.files import open_file, what_to_do

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_FIELDS = {"dtype", "shape", "data_offsets"}
_FIRST_BYTES = 1 << 17  # holds the header of nearly every CLIP


def read_header(path: Path) -> tuple[dict[str, TensorSpec], dict[str, str]]:
    """Return the tensors of the safetensors file at `path`, in the order of their bytes, and its metadata.

    Reads the header only. Raises CheckpointError, naming the file and the tensor, for a header that is not well
    formed, or whose tensors do not exactly fill the rest of the file.
    """
    try:
        size = path.stat().st_size
        with open_file(path) as file:
            prefix = file.read(8)
            if len(prefix) < 8:
                _refuse(path, f"has {size} bytes; a safetensors file begins with the 8-byte length of its header")
            (length,) = struct.unpack("<Q", prefix)
            if length > MAX_HEADER_BYTES:
                _refuse(path, f"its header claims {length} bytes; the format allows {MAX_HEADER_BYTES}")
            if 8 + length > size:
                _refuse(path, f"its header claims {length} bytes, but the file has {size}; it may be cut short")
            text = file.read(length)
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", path, what_to_do(error)) from error
    entries = _parse_json(path, text)
    metadata = _metadata(path, entries.pop("__metadata__", {}))
    tensors = {name: _tensor(path, name, entry, 8 + length) for name, entry in entries.items()}
    ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].nbytes)))
    _check_layout(path, ordered, 8 + length, size)
    _ask_safetensors(path)
    return ordered, metadata


def _refuse(path: Path, what: str, tensor: str | None = None) -> NoReturn:
    where = f"{path}, tensor {tensor!r}" if tensor is not None else path
    raise CheckpointError(what, where, "the file is damaged or was not written by a safetensors writer; get it again")


def refuse_duplicates(path: Path) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    """Return a hook for `json.loads` that raises CheckpointError where the JSON of `path` names a key twice."""

    def hook(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for key, value in pairs:
            if key in seen:
                _refuse(path, f"it names {key!r} twice")
            seen[key] = value
        return seen

    return hook


def _parse_json(path: Path, text: bytes) -> dict[str, Any]:
    if not text.startswith(b"{"):
        _refuse(path, "its header does not begin with '{'; this is not a safetensors file")
    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=refuse_duplicates(path))
    except (ValueError, RecursionError) as error:
        _refuse(path, f"its header is not valid JSON: {str(error)[:200]}")
    return entries


def _metadata(path: Path, value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        _refuse(path, "its header's __metadata__ is not a map from text to text")
    return value


def _tensor(path: Path, name: str, entry: Any, data: int) -> TensorSpec:
    """Check one entry of the header; `data` is where the tensors' bytes begin in the file."""
    if not isinstance(entry, dict):
        _refuse(path, "its entry is not an object", name)
    if unknown := sorted(set(entry) - _FIELDS):
        _refuse(path, f"its entry has unknown fields: {', '.join(unknown)}", name)
    if missing := sorted(_FIELDS - set(entry)):
        _refuse(path, f"its entry lacks {', '.join(missing)}", name)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CheckpointError(
            f"its dtype {str(dtype)[:40]!r} is not one that soupkit reads",
            f"{path}, tensor {name!r}",
            f"convert it to one of {', '.join(DTYPES)}",
        )
    if not isinstance(shape, list) or not all(_is_size(n) for n in shape):
        _refuse(path, f"its shape is not a list of sizes: {str(shape)[:80]}", name)
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_size(n) for n in offsets):
        _refuse(path, f"its data_offsets are not two sizes: {str(offsets)[:80]}", name)
    begin, end = offsets
    spec = TensorSpec(dtype, tuple(shape), (Extent(path, data + begin, end - begin),))
    if spec.nbytes != end - begin:
        _refuse(path, f"{dtype} {shape} takes {spec.nbytes} bytes, its data_offsets span {end - begin}", name)
    return spec


def _is_size(n: Any) -> bool:
    return isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**63


def _check_layout(path: Path, ordered: dict[str, TensorSpec], data: int, size: int) -> None:
    """Check that the tensors fill the file from the header's end to its last byte, without overlap or hole."""
    position = data
    for name, spec in ordered.items():
        if spec.offset < position:
            _refuse(path, f"its bytes overlap another tensor's by {position - spec.offset}", name)
        if spec.offset > position:
            _refuse(path, f"{spec.offset - position} bytes before it belong to no tensor", name)
        position += spec.nbytes
        if position > size:
            _refuse(path, f"it ends at byte {position}, but the file has {size}; it may be cut short", name)
    if position != size:
        _refuse(path, f"its tensors end at byte {position}, but the file has {size}")


def _ask_safetensors(path: Path) -> None:
    """Let safetensors' own reader have the last word; it maps the file and reads its header only."""
    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        _refuse(path, f"safetensors refuses it: {error}")
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error}", path, what_to_do(error)) from error


def header_bytes(read_range: ReadRange, size: int) -> bytes:
    """Return the header of a safetensors file of `size` bytes, its length prefix included, or as many bytes as show
    that it is none. `read_range(start, stop)` returns bytes of the file."""
    head = read_range(0, min(size, _FIRST_BYTES))
    if len(head) < 8:
        return head
    end = 8 + struct.unpack("<Q", head[:8])[0]
    if len(head) < end <= min(size, 8 + MAX_HEADER_BYTES):
        head += read_range(len(head), end)
    return head[:end]


SAFETENSORS_FILE = FileFormat(
    name="safetensors",
    summary="one file of tensors behind a JSON header",
    suffixes=(SAFETENSORS,),
    read=read_header,
    header=header_bytes,
)
