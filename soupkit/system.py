"""What systems do differently, in one place: locks, reads and writes at a position, room for a file, flags, cores.

Linux is where everything is tested. macOS has no `posix_fallocate` and no set of processors for a process; Windows has
no `fcntl`, no reads at a position, no links to refuse and no directories to open. Each has here what does the same.
"""

import ctypes
import errno
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING, Any

fcntl: Any
try:
    import fcntl
except ImportError:
    fcntl = None
resource: Any
try:
    import resource
except ImportError:
    resource = None

if TYPE_CHECKING:
    from pathlib import Path

# Flags of os.open: not for child processes, and bytes as they are; no links; no wait for a pipe's writer; a directory.
CLOEXEC = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
NONBLOCK = getattr(os, "O_NONBLOCK", 0)
DIRECTORY: int | None = getattr(os, "O_DIRECTORY", None)
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)

_seek_lock = Lock()
_PR_SET_PDEATHSIG = 1
_libc: Any = ctypes.CDLL(None) if os.name == "posix" else None
_CANNOT = (errno.EOPNOTSUPP, errno.EINVAL)


def read_at(descriptor: int, view: memoryview, offset: int) -> int:
    """Fill the beginning of `view` with a file's bytes from `offset` on; return how many, 0 at the end. Raises OSError.

    Safe to call from several threads at once.
    """
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [view], offset)
    data = bytes_at(descriptor, view.nbytes, offset)
    view[: len(data)] = data
    return len(data)


def bytes_at(descriptor: int, size: int, offset: int) -> bytes:
    """Return `size` bytes of a file from `offset` on, fewer at its end: one call of the system may read less. Raises
    OSError."""
    data = _some_bytes_at(descriptor, size, offset)
    if len(data) == size or not data:
        return data
    parts, done = [data], len(data)
    while done < size and (data := _some_bytes_at(descriptor, size - done, offset + done)):
        parts.append(data)
        done += len(data)
    return b"".join(parts)


def _some_bytes_at(descriptor: int, size: int, offset: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(descriptor, size, offset)
    return _there(descriptor, offset, lambda: os.read(descriptor, size))


def write_at(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` to a file from `offset` on: one call of the system may write less, and never writes more than
    2 GiB. Raises OSError.

    Safe to call from several threads at once.
    """
    view = memoryview(data)
    view = view.cast("B") if view.nbytes else view
    while view.nbytes:
        written = write_some_at(descriptor, view, offset)
        if not written:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        view, offset = view[written:], offset + written


def write_some_at(descriptor: int, data: memoryview, offset: int) -> int:
    """Write to a file from `offset` on, once; return how many bytes were written. Raises OSError."""
    if hasattr(os, "pwrite"):
        return os.pwrite(descriptor, data, offset)
    return _there(descriptor, offset, lambda: os.write(descriptor, data))


def _there(descriptor: int, offset: int, do: Callable[[], Any]) -> Any:
    """Return what `do` does at a position of a file; one thread at a time, as the position is the file's."""
    with _seek_lock:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return do()


def lock(descriptor: int, *, wait: bool = True, shared: bool = False) -> None:
    """Lock an open file for as long as it is open, or this process lives. Raises BlockingIOError where another holds it
    and this does not `wait`."""
    if fcntl is not None:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
        return
    import msvcrt

    windows: Any = msvcrt
    while True:
        try:
            # One byte far beyond the end: Windows keeps others from reading what is locked.
            _there(descriptor, 1 << 30, lambda: windows.locking(descriptor, windows.LK_NBLCK, 1))
            return
        except OSError as error:
            if not wait:
                raise BlockingIOError(errno.EWOULDBLOCK, "is locked") from error
            import time

            time.sleep(0.05)


def reserve(descriptor: int, size: int) -> None:
    """Give a file `size` bytes, on the disk where the file system can. Raises OSError: better now than in the middle of
    a write."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
    if os.fstat(descriptor).st_size != size:
        os.ftruncate(descriptor, size)


def sync_directory(path: "Path") -> None:
    """Wait until the names in a directory are on the disk, where a directory can be opened. Raises OSError."""
    if DIRECTORY is None:
        return
    descriptor = os.open(path, os.O_RDONLY | DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_for_reading(path: "Path") -> int:
    """Return a descriptor of `path`, to be held open. Where half of those that this process may have are used up, it
    allows itself as many as its owner may (`ulimit -Hn`): a merge holds all of its shards open. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | CLOEXEC)
    if resource is not None:
        allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        if 2 * descriptor > allowed != most:
            with suppress(ValueError, OSError):  # macOS says "no limit", and allows 10,240
                resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return descriptor


def can_end_with_parent() -> bool:
    """Whether `end_with_parent` does what it says (Linux)."""
    return hasattr(_libc, "prctl")


def end_with_parent(parent: int) -> None:
    """Have this process, a fork of the process `parent`, killed as soon as that ends, whatever ends it; where the
    system can."""
    if can_end_with_parent():
        _libc.prctl(_PR_SET_PDEATHSIG, KILL)
    if os.getppid() != parent:
        os._exit(1)


def cores() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes(which: str) -> int | None:
    """Return a number of bytes that the system counts in pages ("SC_PHYS_PAGES"), None where it does not."""
    try:
        return os.sysconf(which) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
