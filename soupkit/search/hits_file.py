"""What each soup did on each image, on disk block by block as it becomes known: nothing known is ever scored again."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xxhash

from soupkit.errors import StorageError
from soupkit.files import MOST_KEPT_BYTES, read_bytes, storage_error
from soupkit.system import CLOEXEC

_HEAD = struct.Struct("<IQ")  # how many records follow, and xxh3-64 of them
_RECORD = np.dtype([("image", "<u4"), ("flags", "u1")])
RIGHT, AMONG_FIVE = 1, 2
_LEVEL_BIT, _MOST_LEVEL = 2, 63  # the other six bits
_FINEST, _STEPS = 1e-3, 4  # margins below the first are one level, and so many levels double them: up to 55


def flags_of(right: np.ndarray, among_five: np.ndarray | None, margins: np.ndarray | None) -> np.ndarray:
    """Return hits (bool [n]) as a file of them has them, uint8 [n], with `margins` (float [n]) in 64 levels."""
    flags = right.astype(np.uint8) * RIGHT
    if among_five is not None:
        flags |= among_five.astype(np.uint8) * AMONG_FIVE
    if margins is not None:
        steps = 1 + _STEPS * np.log2(np.clip(margins, _FINEST / 2, 1e9) / _FINEST)
        flags |= np.clip(np.floor(steps), 0, _MOST_LEVEL).astype(np.uint8) << _LEVEL_BIT
    return flags


def levels_of(flags: np.ndarray) -> np.ndarray:
    """Return the levels of the margins in `flags`, uint8 [n]: the larger, the surer; 0 also where nobody knew."""
    return flags >> _LEVEL_BIT


class HitsFile:
    """The hits of one soup on `n` images: `known` bool [n], `flags` uint8 [n] (RIGHT, AMONG_FIVE, and the level of
    the margin).

    A file of blocks, each with its digest: of a block that a killed process left unfinished nothing is believed. What
    was added outlives the process at once, and the machine after `sync`.
    """

    def __init__(self, path: Path, n: int, *, writes: bool) -> None:
        """Read what `path` holds; with `writes`, later blocks are appended to it. Raises StorageError."""
        self.path = path
        self.known = np.zeros(n, dtype=bool)
        self.flags = np.zeros(n, dtype=np.uint8)
        self._writes, self._unsynced = writes, False
        try:
            data = read_bytes(path, MOST_KEPT_BYTES)
        except FileNotFoundError:
            data = b""
        except OSError as error:
            raise StorageError(
                f"cannot be read: {error.strerror}", path, "check who may read it, or --fresh"
            ) from error
        self._whole = 0
        while self._whole + _HEAD.size <= len(data):
            count, digest = _HEAD.unpack_from(data, self._whole)
            end = self._whole + _HEAD.size + count * _RECORD.itemsize
            body = data[self._whole + _HEAD.size : end]
            if end > len(data) or xxhash.xxh3_64_intdigest(body) != digest:
                break
            self._take(np.frombuffer(body, _RECORD))
            self._whole = end

    def _take(self, records: np.ndarray) -> None:
        self.known[records["image"]] = True
        self.flags[records["image"]] = records["flags"]

    def add(self, images: np.ndarray, flags: np.ndarray) -> None:
        """Note `flags` (uint8 [b]) of `images` (int64 [b]). Raises StorageError."""
        records = np.zeros(len(images), _RECORD)
        records["image"], records["flags"] = images, flags
        self._take(records)
        if not self._writes:
            return
        body = records.tobytes()
        block = _HEAD.pack(len(images), xxhash.xxh3_64_intdigest(body)) + body

        def append(descriptor: int) -> None:
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                file.seek(self._whole)
                file.write(block)
                file.truncate()

        self._open(append)
        self._whole += len(block)
        self._unsynced = True

    def sync(self) -> None:
        """Wait until what was added is on disk. Raises StorageError."""
        if self._unsynced:
            self._open(os.fsync)
            self._unsynced = False

    def _open(self, work: Callable[[int], None]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | CLOEXEC, 0o666)
            try:
                work(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise storage_error(error, self.path, 0) from error
