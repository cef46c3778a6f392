"""Files that a reader sees whole or not at all, and what is said when one cannot be written."""

import errno
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from soupkit.errors import StorageError
from soupkit.system import CLOEXEC, NOFOLLOW, NONBLOCK, lock

# What to do about errors that no path and no permission is to blame for.
_AGAIN = "then run the same command again"
_HINTS = {
    errno.EIO: f"the device failed: see the system's log, {_AGAIN}",
    errno.EMFILE: f"allow more open files (ulimit -n 4096), {_AGAIN}",
    errno.ENFILE: f"the whole system has too many files open: close some, {_AGAIN}",
    errno.ENOMEM: f"free memory, {_AGAIN}",
    errno.EROFS: "the file system can only be read: choose another place",
    errno.EFBIG: "the file system, or `ulimit -f`, allows no larger file: choose another place",
}

Content = str | bytes | Callable[[BinaryIO], object]

MOST_BYTES = 64 << 20  # of a document that is read whole: a config, an index, a record
MOST_KEPT_BYTES = 1 << 28  # of what soupkit keeps for itself: a journal, a cache's list of images
DEEPEST = 100  # levels of nesting; soupkit's own documents have six


def write_whole(path: Path, content: Content) -> None:
    """Write `content` to `path`, which keeps what it held until all of it is written: text (as UTF-8), bytes, or a
    function that writes into the open binary file. Folders above `path` are made where they are missing.

    The unfinished file is `path` with `.partial` behind, locked, so that of two processes one writes after the other,
    and what a killed one leaves is written over by the next. Raises StorageError.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(partial) as file:
            try:
                if callable(content):
                    content(file)
                else:
                    file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                partial.replace(path)
            except BaseException:
                with suppress(OSError):
                    partial.unlink()
                raise
    except OSError as error:
        raise storage_error(error, path, 0) from error


def write_all(paths: Sequence[Path], content: Callable[[list[BinaryIO]], object]) -> None:
    """Write several files whole, as `write_whole` writes one: `content` writes into all of them, open, and then each
    gets its name. Raises StorageError."""

    def write(opened: list[BinaryIO]) -> None:
        if len(opened) == len(paths):
            content(opened)
        else:
            write_whole(paths[len(opened)], lambda file: write([*opened, file]))

    write([])


def _locked(path: Path) -> BinaryIO:
    """Return `path`, empty, opened for writing, and locked for as long as it is open. Raises OSError."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | CLOEXEC | NOFOLLOW | NONBLOCK, 0o666)
        file = os.fdopen(descriptor, "wb")
        try:
            lock(descriptor)
            held, named = os.fstat(descriptor), path.stat()
            if (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino):
                file.truncate()
                return file
        except FileNotFoundError:  # the one that held it has given it its name
            pass
        except BaseException:
            file.close()
            raise
        file.close()


def real_path(path: Path) -> Path:
    """Return `path` absolute and without links. A link that leads back to itself stays, where `Path.resolve` raises
    RuntimeError before Python 3.13."""
    return Path(os.path.realpath(path))


def written_out(path: Path) -> Path | None:
    """Return what a shell makes of a path that begins with ~, where no such directory is there; None for any other."""
    first = path.parts[0] if path.parts else ""
    if not first.startswith("~") or Path(first).exists():
        return None
    expanded = os.path.expanduser(path)  # noqa: PTH111 - Path's own raises for a user that there is not
    return Path(expanded) if expanded != str(path) else None


def in_the_way(path: Path) -> tuple[Path, str] | None:
    """Return what keeps `path` from being a directory, it or what is above it, and what that is; None for nothing."""
    if (home := written_out(path)) is not None:
        return Path(path.parts[0]), f"stands for a home to a shell alone: write {home}"
    for place in (*reversed(path.parents), path):
        with suppress(OSError):  # what may not be looked at is not known to be in the way
            if place.is_symlink() and not place.exists():
                loops = real_path(place).is_symlink()
                return place, "is a link that leads back to itself" if loops else "is a link to what is not there"
            if place.exists() and not place.is_dir():
                return place, "is no directory"
    return None


def write_cached(path: Path, content: Content) -> None:
    """Write `content` to `path` as `write_whole` does; where that is not possible nothing is kept, and that is no
    error: without a cache things take longer, no more."""
    with suppress(StorageError):
        write_whole(path, content)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Within, an OSError that names no file, as one of a read does not, names `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading. Raises OSError, also for a pipe, a socket or a device, which might never end."""
    check_regular(path)
    return path.open("rb")


def check_regular(path: Path) -> None:
    """Raise OSError where `path` is a pipe, a socket or a device. A directory is left to whoever opens it."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "it is a pipe, a socket or a device, and no file", str(path))


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """Return what is in a file of `most` bytes at most. Raises OSError, also for a larger one and for no file."""
    with open_file(path) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise OSError(errno.EFBIG, f"it is larger than {most >> 20} MiB", str(path))
        return file.read()


def read_text(path: Path, encoding: str = "utf-8", most: int = MOST_BYTES, errors: str = "strict") -> str:
    """Return the text in a file of `most` bytes at most, with its ends of lines as they are. Raises OSError as
    `read_bytes` does, and UnicodeDecodeError where `errors` is "strict"."""
    return read_bytes(path, most).decode(encoding, errors)


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text that may have been made to do harm. Raises ValueError for one that is damaged, or
    nested deeper than DEEPEST."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if nested_too_deeply(value):
        raise ValueError("it is nested too deeply")
    return value


def nested_too_deeply(value: Any) -> bool:
    """Whether a value of JSON is nested deeper than DEEPEST: others who read it, or write it, might not get through."""
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def sealed(value: object) -> str:
    """Return a line of JSON behind the xxh3-128 of its bytes, so that what is kept for later is believed only whole."""
    import xxhash

    text = json.dumps(value)
    return f"{xxhash.xxh3_128_hexdigest(text.encode())} {text}"


def unsealed(line: str) -> Any:
    """Return the value that `sealed` wrote. Raises ValueError for a line that is another than it was."""
    import xxhash

    digest, _, text = line.strip().partition(" ")
    if digest != xxhash.xxh3_128_hexdigest(text.encode()):
        raise ValueError("is not as it was written")
    return parse_json(text)


def storage_error(error: OSError, path: Path, needed: int) -> StorageError:
    """Say what stopped the writing of `path`: a full disk, with the bytes that are `needed` (0: not known), or else."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        try:
            free = f", {shutil.disk_usage(path.parent).free / 1e9:.2f} GB are free"
        except OSError:
            free = ""
        return StorageError(
            f"the disk is full: {f'{needed / 1e9:.2f} GB are needed' if needed else 'no more can be written'}{free}",
            path,
            "make room, then run the same command again",
        )
    if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.ELOOP) and (found := in_the_way(path.parent)) is not None:
        return StorageError(f"cannot be written: {found[0]} {found[1]}", path, "choose another place")
    return StorageError(f"cannot be written: {error.strerror or error}", path, what_to_do(error))


def what_to_do(error: OSError) -> str:
    """Return the hint for an error of the system."""
    return _HINTS.get(error.errno or 0, "check the path and who may use it")


def is_of_the_machine(error: OSError) -> bool:
    """Whether the machine is to blame for an error, and no path and no call: a device, or a limit."""
    return error.errno in _HINTS
