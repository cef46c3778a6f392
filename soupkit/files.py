"""Files that a reader sees whole or not at all, and what is said when one cannot be written."""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from soupkit.errors import StorageError

Content = str | bytes | Callable[[BinaryIO], object]


def write_whole(path: Path, content: Content) -> None:
    """Write `content` to `path`, which keeps what it held until all of it is written: text (as UTF-8), bytes, or a
    function that writes into the open binary file. Folders above `path` are made where they are missing.

    The process's own number is in the name of the unfinished file, so that two processes do not write into one.
    Raises StorageError.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):  # there may be no place where it could be
            partial.unlink(missing_ok=True)
        raise storage_error(error, path, 0) from error
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def write_cached(path: Path, content: Content) -> None:
    """Write `content` to `path` as `write_whole` does; where that is not possible nothing is kept, and that is no
    error: without a cache things take longer, no more."""
    with suppress(StorageError):
        write_whole(path, content)


def storage_error(error: OSError, path: Path, needed: int) -> StorageError:
    """Say what stopped the writing of `path`: a full disk, with the bytes that are `needed` (0: not known), or else."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        try:
            status = os.statvfs(path.parent)
            free = f", {status.f_bavail * status.f_frsize / 1e9:.2f} GB are free"
        except OSError:
            free = ""
        return StorageError(
            f"the disk is full: {f'{needed / 1e9:.2f} GB are needed' if needed else 'no more can be written'}{free}",
            path,
            "make room, then run the same command again",
        )
    return StorageError(f"cannot be written: {error.strerror}", path, "check the path and who may write there")
