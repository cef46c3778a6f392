"""Writes safetensors files piece by piece, in any order, by any number of threads or processes.

The layout is known before a byte is written: the file gets its full size first, so that a full disk is found out at
once, and its header last, so that nothing opens it before it is whole.

Whole pages go past the page cache (O_DIRECT) where the file system can. A large output would otherwise drive the inputs
out of the cache, and be held back by the kernel's limit on unwritten pages: reading three ViT-bigG-14 and writing as
many bytes as one took 4.7 to 6.5 s through the cache on two cores, 2.0 to 2.2 s past it.
"""

import errno
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from soupkit.checkpoint.dtypes import DTYPES
from soupkit.checkpoint.formats.weight_files import OPEN_CLIP_OUTPUT, OutputFiles
from soupkit.errors import UsageError
from soupkit.files import storage_error, write_whole
from soupkit.system import CLOEXEC, read_at, reserve, write_at, write_some_at

# What direct writes are aligned to, in the file and in memory. Devices ask for their block size, which no usual one
# has larger; where one does, the kernel refuses, and the page cache is used.
PAGE = 4096
_DIRECT_BYTES = 16 * PAGE  # below this, going past the page cache costs more than it saves


@dataclass(frozen=True, slots=True)
class FileLayout:
    """One output file: its name, the bytes of its header (length prefix included), its size, and its tensors."""

    name: str
    header: bytes
    size: int
    offsets: dict[str, int]


@dataclass(frozen=True, slots=True)
class OutputLayout:
    """Every file of an output, where each tensor begins (its file and the byte in it), and the index that shards need:
    its text, None for a single file, and its name."""

    files: tuple[FileLayout, ...]
    tensors: dict[str, tuple[int, int]]
    index: str | None
    index_name: str

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(f.size for f in self.files)


def lay_out(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    metadata: Mapping[str, str],
    max_shard_bytes: int | None,
    output: OutputFiles = OPEN_CLIP_OUTPUT,
) -> OutputLayout:
    """Place `tensors` (name -> safetensors dtype and shape) in one file, or in shards of at most `max_shard_bytes`,
    called as `output` says; without a limit its own counts, where the tensors are more.

    Raises UsageError when one tensor is larger than a shard may be.
    """
    sizes = {name: prod(shape) * DTYPES[dtype].itemsize for name, (dtype, shape) in tensors.items()}
    if max_shard_bytes is None and output.shard_bytes is not None and sum(sizes.values()) > output.shard_bytes:
        max_shard_bytes = output.shard_bytes
    groups = _shards(sizes, max_shard_bytes)
    sharded = max_shard_bytes is not None
    files, positions, weight_map = [], {}, {}
    for i, names in enumerate(groups):
        file_name = output.shard.format(number=i + 1, count=len(groups)) if sharded else output.weights
        layout = _file_layout(file_name, {n: tensors[n] for n in names}, metadata)
        files.append(layout)
        for name in names:
            positions[name] = (i, layout.offsets[name])
            weight_map[name] = file_name
    index = None
    if sharded:
        total = sum(f.size - len(f.header) for f in files)
        index = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2) + "\n"
    return OutputLayout(tuple(files), positions, index, output.index)


def _shards(sizes: Mapping[str, int], limit: int | None) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if limit is not None and size > limit:
            raise UsageError(
                f"is less than tensor {name!r} alone has: {size} bytes", "--max-shard-size", "allow larger shards"
            )
        if limit is not None and groups[-1] and filled + size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    return groups


def _file_layout(
    name: str, tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]
) -> FileLayout:
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    position, begins = 0, {}
    for tensor, (dtype, shape) in tensors.items():
        nbytes = prod(shape) * DTYPES[dtype].itemsize
        entries[tensor] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, position + nbytes]}
        begins[tensor] = position
        position += nbytes
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(len(text) + 8) % PAGE)  # the format allows spaces; with them the data begins at a page
    header = struct.pack("<Q", len(text)) + text
    return FileLayout(name, header, len(header) + position, {t: len(header) + b for t, b in begins.items()})


class TensorWriter:
    """The output files of one layout in `directory`, open for writing pieces; safe to use from several threads."""

    def __init__(self, directory: Path, layout: OutputLayout) -> None:
        self.directory = directory
        self.layout = layout
        self._descriptors: list[int] = []
        self._direct: list[int | None] = []
        self._refused: list[int] = []

    def open(self, *, create: bool) -> None:
        """Open the files; with `create` also give them their full size. Raises StorageError when there is no room."""
        for file in self.layout.files:
            path = self.directory / file.name
            try:
                flags = os.O_RDWR | CLOEXEC | (os.O_CREAT if create else 0)
                self._descriptors.append(os.open(path, flags, 0o666))
                if create:
                    reserve(self._descriptors[-1], file.size)
                self._direct.append(_open_direct(path))
            except OSError as error:
                self.close()
                raise storage_error(error, path, self.layout.size) from error

    def place(self, name: str, byte_start: int) -> int:
        """Return where byte `byte_start` of tensor `name` lies in its file."""
        return self.layout.tensors[name][1] + byte_start

    def write(self, name: str, byte_start: int, data: np.ndarray) -> None:
        """Write `data` (1-D uint8) from byte `byte_start` of tensor `name` on; it may run into the tensors after it.

        Its whole pages go past the page cache where `data` lies as far from a page's start in memory as its `place`
        in the file; a page of which it holds a part is left to the cache, by all who write a part of it.
        """
        file, offset = self.layout.tensors[name]
        offset += byte_start
        begin, end = -offset % PAGE, (offset + len(data)) // PAGE * PAGE - offset
        if end - begin >= _DIRECT_BYTES and (data.__array_interface__["data"][0] + begin) % PAGE == 0:
            self._write(file, offset, memoryview(data[:begin]))
            done = begin + self._write_direct(file, offset + begin, memoryview(data[begin:end]))
            self._write(file, offset + done, memoryview(data[done:]))
        else:
            self._write(file, offset, memoryview(data))

    def _write_direct(self, file: int, offset: int, view: memoryview) -> int:
        """Write whole pages and return how many bytes; what is left is for the page cache."""
        done = 0
        while (descriptor := self._direct[file]) is not None and done < view.nbytes:
            try:
                n = write_some_at(descriptor, view[done:], offset + done)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise storage_error(error, self.directory / self.layout.files[file].name, view.nbytes) from error
                n = 0
            if n % PAGE or not n:
                # Not aligned as this device asks, or cut short within a page. The descriptor stays open: other threads
                # may be writing to it.
                self._direct[file] = None
                self._refused.append(descriptor)
            done += n
        return done

    def _write(self, file: int, offset: int, view: memoryview) -> None:
        try:
            write_at(self._descriptors[file], view, offset)
        except OSError as error:
            raise storage_error(error, self.directory / self.layout.files[file].name, view.nbytes) from error

    def adjoins(self, name: str, byte_end: int, after: str) -> bool:
        """Whether tensor `after` begins where `byte_end` bytes from the start of `name` end, or is `name` itself."""
        (file, offset), (file_after, offset_after) = self.layout.tensors[name], self.layout.tensors[after]
        return name == after or (file == file_after and offset + byte_end == offset_after)

    def read_back(self, name: str, byte_start: int, data: np.ndarray) -> bool:
        """Fill `data` from what was written; False when the file ends before, or cannot be read there."""
        file, offset = self.layout.tensors[name]
        view, position = memoryview(data), offset + byte_start
        while view.nbytes:
            try:
                n = read_at(self._descriptors[file], view, position)
            except OSError:  # a sector that went bad: it is written anew
                return False
            if n == 0:
                return False
            view, position = view[n:], position + n
        return True

    def sync(self) -> None:
        """Wait until what was written is on the disk."""
        for descriptor, file in zip(self._descriptors, self.layout.files, strict=True):
            try:
                os.fsync(descriptor)
            except OSError as error:
                raise storage_error(error, self.directory / file.name, 0) from error

    def finish(self) -> None:
        """Write the headers (and the index of shards): from here on the files are whole. Syncs before and after."""
        self.sync()
        for i, file in enumerate(self.layout.files):
            self._write(i, 0, memoryview(file.header))
        if self.layout.index is not None:
            write_whole(self.directory / self.layout.index_name, self.layout.index)
        self.sync()

    def close(self) -> None:
        """Close the files. Closing twice is harmless."""
        for descriptors in (self._descriptors, self._direct, self._refused):
            while descriptors:
                if (descriptor := descriptors.pop()) is not None:
                    os.close(descriptor)


def _open_direct(path: Path) -> int | None:
    """Open an existing file for writes past the page cache; None where that cannot be had."""
    try:
        return os.open(path, os.O_WRONLY | CLOEXEC | os.O_DIRECT)
    except (OSError, AttributeError):
        return None
