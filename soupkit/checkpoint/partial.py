"""An output directory in the making: `OUT.partial` beside its target, locked, and renamed when it is whole."""

import errno
import fcntl
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from soupkit.errors import StorageError, UsageError
from soupkit.files import storage_error

if TYPE_CHECKING:
    from typing import Self

_LOCK = "lock"


def partial_path(target: Path) -> Path:
    """Return where the unfinished output of `target` lies. Raises UsageError for `.`, `..` and `/`."""
    if target.name in ("", ".."):
        raise UsageError("is no name of a directory to be made", target, "name it, as in -o soups/uniform")
    return target.with_name(target.name + ".partial")


class PartialDirectory:
    """`OUT.partial`, held by one run at a time. A context manager; leaving it keeps what was written, for a resume."""

    def __init__(self, target: Path, *, wait: bool = False) -> None:
        """`wait` for another run that holds the directory, instead of refusing."""
        self.target = target
        self._wait = wait
        self.path = partial_path(target)
        self.created = False
        self._lock = -1

    def __enter__(self) -> "Self":
        """Create or take over the directory. Raises StorageError when another run holds it or it cannot be made."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            while not self._take():
                pass
        except OSError as error:
            raise storage_error(error, self.path, 0) from error
        return self

    def _take(self) -> bool:
        """Lock the directory; False when it went away in between (its holder finished), to be tried again."""
        try:
            self.path.mkdir()
            self.created = True
        except FileExistsError:
            self.created = False
        try:
            self._lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX if self._wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._release()
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise StorageError(
                "is being written by another run", self.target, "wait for it to end, or choose another output"
            ) from error
        try:
            held, named = os.fstat(self._lock), (self.path / _LOCK).stat()
        except FileNotFoundError:
            self._release()
            return False
        if (held.st_dev, held.st_ino) != (named.st_dev, named.st_ino):
            self._release()
            return False
        return True

    def _release(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def clear(self) -> None:
        """Remove everything in the directory but the lock."""
        for entry in self.path.iterdir():
            if entry.name == _LOCK:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def discard(self) -> None:
        """Remove the directory."""
        shutil.rmtree(self.path, ignore_errors=True)

    def publish(self, replace: bool = False) -> None:
        """Make the directory the target, by one rename. With `replace` a target in the way is moved aside first.

        Raises StorageError when something else is at the target.
        """
        _sync_directory(self.path)
        old = self.target.with_name(self.target.name + ".old.partial")
        try:
            if replace and self.target.exists():
                shutil.rmtree(old, ignore_errors=True)
                self.target.rename(old)
            self.path.rename(self.target)
        except OSError as error:
            raise StorageError(
                f"cannot be put in place: {error.strerror}", self.target, "move what is there out of the way"
            ) from error
        # Not before the rename: a run that waits for this directory would take it in between.
        remove_lock(self.target)
        _sync_directory(self.target.parent)
        shutil.rmtree(old, ignore_errors=True)


def remove_lock(directory: Path) -> None:
    """Remove the lock that a run killed right after its rename leaves in its finished output."""
    (directory / _LOCK).unlink(missing_ok=True)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
