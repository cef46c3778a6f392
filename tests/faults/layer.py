"""A disk that fails: what a process reads and writes below one directory goes through here, and can go wrong.

It stands where Python meets the system: the calls of `os`, and the raw files below those that `open` returns. What
other libraries read by themselves (a mapped file, a C++ stream) is not in it.
"""

import builtins
import errno
import io
import itertools
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# Calls by the name of a path, and by an open file; each reads, writes, or changes which files there are.
_BY_PATH = {"mkdir": "write", "rename": "write", "replace": "write", "link": "write", "symlink": "write"}
_BY_FILE = {
    "read": "read", "pread": "read", "readv": "read", "preadv": "read",
    "write": "write", "pwrite": "write", "writev": "write", "pwritev": "write", "sendfile": "write",
    "copy_file_range": "write", "fsync": "write", "fdatasync": "write", "ftruncate": "write",
    "posix_fallocate": "write",
}  # fmt: skip
_ROOM = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong: call `number` of those that `kind` names ("read" or "write") fails with `error`; with no room,
    all that write from there on. At most `most` bytes are read or written by one call (0: as many as asked for)."""

    kind: str = ""
    number: int = 0
    error: int = 0
    most: int = 0


class Disk:
    """The files below `root`, of which every call is counted, and may fail."""

    def __init__(self, root: str, fault: Fault, log: Callable[[str], None]) -> None:
        self._root = root + os.sep
        self._fault = fault
        self._log = log
        self._lock = threading.Lock()
        self._numbers = {"read": itertools.count(1), "write": itertools.count(1)}
        self._owner = os.getpid()

    def holds(self, path: Any) -> bool:
        """Whether a path, or an open file, lies below the root. Nothing does for forks of this process, which would
        count anew."""
        if os.getpid() != self._owner:
            return False
        try:
            if isinstance(path, int):
                path = os.readlink(f"/proc/self/fd/{path}")  # noqa: PTH115
            return os.path.abspath(os.fsdecode(path)).startswith(self._root)  # noqa: PTH100
        except (OSError, TypeError):
            return False

    def meet(self, kind: str, name: str, path: Any) -> None:
        """Count a call; raise the OSError that it meets."""
        fault = self._fault
        with self._lock:
            number = next(self._numbers[kind])
            if isinstance(path, int):
                path = os.readlink(f"/proc/self/fd/{path}")  # noqa: PTH115
            fails = kind == fault.kind and (
                number == fault.number or (fault.error in _ROOM and fault.number and number > fault.number)
            )
            self._log(f"{kind} {number} {name} {os.fsdecode(path)}{' fails' if fails else ''}")
        if fails:
            raise OSError(fault.error, os.strerror(fault.error), *([path] if name in _BY_PATH else []))

    def short(self, view: Any) -> Any:
        """Return as much of a buffer as one call may take."""
        most = self._fault.most
        return memoryview(view).cast("B")[:most] if most else view

    def install(self) -> None:
        """Let all calls of this process go through here."""
        for name, kind in _BY_PATH.items():
            setattr(os, name, self._by_path(getattr(os, name), name, kind))
        for name, kind in _BY_FILE.items():
            setattr(os, name, self._by_file(getattr(os, name), name, kind))
        os.open = self._opening(os.open)
        io.open = builtins.open = self._open_file  # type: ignore[assignment]

    def _by_path(self, call: Callable[..., Any], name: str, kind: str) -> Callable[..., Any]:
        def met(path: Any, *arguments: Any, **named: Any) -> Any:
            if self.holds(path):
                self.meet(kind, name, path)
            return call(path, *arguments, **named)

        for supported in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks):
            if call in supported:
                supported.add(met)
        return met

    def _by_file(self, call: Callable[..., Any], name: str, kind: str) -> Callable[..., Any]:
        def met(file: Any, *arguments: Any, **named: Any) -> Any:
            descriptor = file if isinstance(file, int) else file.fileno()
            if not self.holds(descriptor):
                return call(file, *arguments, **named)
            self.meet(kind, name, descriptor)
            return call(file, *self._shortened(name, arguments), **named)

        return met

    def _shortened(self, name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        most = self._fault.most
        if not most or name in ("fsync", "fdatasync", "ftruncate", "posix_fallocate"):
            return arguments
        if name in ("read", "pread"):
            return min(arguments[0], most), *arguments[1:]
        if name in ("write", "pwrite"):
            return self.short(arguments[0]), *arguments[1:]
        if name in ("readv", "preadv", "writev", "pwritev"):
            return [self.short(arguments[0][0])], *arguments[1:]
        return *arguments[:2], min(arguments[2], most), *arguments[3:]  # sendfile, copy_file_range

    def _opening(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def met(path: Any, flags: int, *arguments: Any, **named: Any) -> Any:
            if self.holds(path):
                self.meet("write" if flags & (os.O_WRONLY | os.O_RDWR) else "read", "open", path)
            return call(path, flags, *arguments, **named)

        os.supports_dir_fd.add(met)
        return met

    def _open_file(
        self, file: Any, mode: str = "r", buffering: int = -1, encoding: str | None = None,
        errors: str | None = None, newline: str | None = None, closefd: bool = True, opener: Any = None,
    ) -> Any:  # fmt: skip
        plain = mode.replace("b", "").replace("t", "")
        if not self.holds(file):
            return _OPEN(file, mode, buffering, encoding, errors, newline, closefd, opener)
        if not isinstance(file, int):
            self.meet("read" if plain == "r" else "write", "open", file)
        raw = _RawFile(self, file, plain, closefd, opener)
        if buffering == 0:
            return raw
        size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
        buffered: Any = (
            io.BufferedRandom(raw, size) if "+" in plain
            else io.BufferedReader(raw, size) if plain == "r"
            else io.BufferedWriter(raw, size)
        )  # fmt: skip
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline, buffering == 1)


_OPEN = io.open


class _RawFile(io.FileIO):
    """A file whose every read and write goes through a `Disk`."""

    def __init__(self, disk: Disk, file: Any, mode: str, closefd: bool, opener: Any) -> None:
        super().__init__(file, mode, closefd, opener)
        self._disk = disk

    def readinto(self, buffer: Any) -> int:
        self._disk.meet("read", "read", self.name)
        return super().readinto(self._disk.short(buffer))

    def readall(self) -> bytes:
        parts = []
        while part := self.read(1 << 20):
            parts.append(part)
        return b"".join(parts)

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            return self.readall()
        buffer = bytearray(size)
        return bytes(buffer[: self.readinto(buffer)])

    def write(self, data: Any) -> int:
        self._disk.meet("write", "write", self.name)
        return super().write(self._disk.short(data))
