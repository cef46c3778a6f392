"""An output directory in the making: `OUT.partial` beside its target, locked, and renamed when it is whole.

OUT.partial/lock         held by the run that writes; its text says which command's the directory is
OUT.replaced.partial/    an output that makes way for another, until that one has its place
"""

import errno
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from soupkit.errors import StorageError, UsageError
from soupkit.files import in_the_way, storage_error
from soupkit.system import CLOEXEC, NOFOLLOW, NONBLOCK, lock, sync_directory, write_at

if TYPE_CHECKING:
    from typing import Self

_LOCK = "lock"
_OURS = "soupkit "
_PUBLISHED = ", published"
_REPLACED = ".replaced.partial"
_NAME_BYTES = 255  # of a file's name, on every usual file system
_IN_THE_WAY = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR)  # what a rename says of a target
_MOVE = "move it away, or choose another output"


def partial_path(target: Path) -> Path:
    """Return where the unfinished output of `target` lies. Raises UsageError for `.`, `..` and `/`."""
    if target.name in ("", ".."):
        raise UsageError("is no name of a directory to be made", target, "name it, as in -o soups/uniform")
    return target.with_name(target.name + ".partial")


def check_target(target: Path) -> None:
    """Raise UsageError or StorageError where no directory can be put at `target` in the end: for links, mount points,
    what lies below a file, and names that are too long or not UTF-8. Found out before the work, and not after it."""
    try:
        length = len((target.name + _REPLACED).encode())
    except UnicodeEncodeError:
        raise UsageError(
            "is no UTF-8", ascii(str(target)), "give it a name in UTF-8: records and cards hold it"
        ) from None
    if length > _NAME_BYTES:
        raise UsageError("is too long a name", target, f"give it at most {_NAME_BYTES - len(_REPLACED)} bytes")
    if target.is_symlink():
        raise StorageError("is a link, which a directory cannot replace", target, "name the directory itself")
    if (found := in_the_way(target.parent)) is not None:
        raise StorageError(f"cannot be written: {found[0]} {found[1]}", target, "choose another place")
    if os.path.ismount(target):
        raise StorageError("is a mount point, which a directory cannot replace", target, "name a directory below it")


class PartialDirectory:
    """`OUT.partial`, held by one run at a time. A context manager; leaving it keeps what was written, for a resume.

    A directory that is there already is taken when its lock says that the same command made it, or when it is empty.
    One without such a mark, as an earlier soupkit left it, is taken when `recognises` says so.
    """

    def __init__(
        self, target: Path, command: str, *, wait: bool = False, recognises: Callable[[Path], bool] | None = None
    ) -> None:
        """`command` is who writes here ("merge"); `wait` for another run of it that holds the directory, instead of
        refusing."""
        self.target = target
        self.path = partial_path(target)
        self.created = False
        self._command = command
        self._wait = wait
        self._recognises = recognises
        self._lock = -1

    def __enter__(self) -> "Self":
        """Create or take over the directory.

        Raises StorageError when another run holds it, when it is not this command's, or when it cannot be made; and as
        `check_target` does.
        """
        check_target(self.target)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            while not self._take():
                pass
        except OSError as error:
            raise storage_error(error, self.path, 0) from error
        if os.path.lexists(self.target):
            _remove_marked(_replaced_path(self.target))
        return self

    def _take(self) -> bool:
        """Lock the directory; False when it went away in between (its holder finished), to be tried again."""
        try:
            self.path.mkdir()
            self.created = True
        except FileExistsError:
            self.created = False
        try:
            if not stat.S_ISDIR(self.path.lstat().st_mode):
                raise StorageError("is in the way: it is no directory", self.path, _MOVE)
            if not (self.path / _LOCK).exists():
                self._refuse_foreign()
            flags = os.O_RDWR | os.O_CREAT | CLOEXEC | NOFOLLOW
            self._lock = os.open(self.path / _LOCK, flags, 0o666)
        except FileNotFoundError:
            return False
        try:
            lock(self._lock, wait=self._wait)
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
        try:
            self._mark()
        except BaseException:
            self._release()
            raise
        return True

    def _mark(self) -> None:
        """Say in the lock, which is held, whose the directory is. Raises StorageError when it says somebody else."""
        owner = _read_mark(self.path / _LOCK)
        if owner is None:
            raise StorageError("holds a lock that is not soupkit's", self.path, _MOVE)
        if owner and owner != self._command:
            raise StorageError(
                f"is the unfinished output of `soupkit {owner}`", self.path, "finish or remove that, or choose another"
            )
        if not owner:
            self._refuse_foreign()
        self._write_mark(self._command)

    def _write_mark(self, text: str) -> None:
        mark = f"{_OURS}{text}\n".encode()
        write_at(self._lock, mark, 0)
        os.ftruncate(self._lock, len(mark))

    def _refuse_foreign(self) -> None:
        """Raise StorageError where a directory without a mark holds what this command has not written."""
        others = sorted(entry.name for entry in self.path.iterdir() if entry.name != _LOCK)
        marked = bool(_read_mark(self.path / _LOCK))  # by another run, in between
        if others and not marked and not (self._recognises is not None and self._recognises(self.path)):
            what = f"holds {others[0]!r}, which `soupkit {self._command}` has not written"
            raise StorageError(what, self.path, _MOVE)

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
        _clear(self.path)

    def discard(self) -> None:
        """Remove the directory; its lock last, so that a kill leaves one that is still this command's."""
        with suppress(OSError):
            _remove(self.path)

    def publish(self, source: Path | None = None, *, replace: bool = False) -> None:
        """Make the directory, or `source` within it, the target, by one rename. With `replace` a target in the way is
        moved aside first, and removed afterwards. What is left of the directory beside `source` is removed.

        Raises StorageError when something else is at the target, or the disk fails.
        """
        replaced = _replaced_path(self.target)
        try:
            sync_directory(source or self.path)
            if replace and os.path.lexists(self.target):
                _move_aside(self.target, replaced)
            if source is not None:
                self._write_mark(self._command + _PUBLISHED)
            (source or self.path).rename(self.target)
        except OSError as error:
            if error.errno not in _IN_THE_WAY:
                raise storage_error(error, self.target, 0) from error
            raise StorageError(
                f"cannot be put in place: {error.strerror}", self.target, "move what is there out of the way"
            ) from error
        # Not before the rename: a run that waits for this directory would take it in between.
        if source is None:
            with suppress(OSError):
                (self.target / _LOCK).unlink()
        try:
            sync_directory(self.target.parent)
        except OSError as error:
            raise storage_error(error, self.target, 0) from error
        _remove_marked(replaced)
        if source is not None:
            self.discard()


def sweep(target: Path) -> None:
    """Remove what a run that was killed right after its last rename leaves in and beside its finished output."""
    remove_lock(target)
    _remove_marked(_replaced_path(target))
    partial = partial_path(target)
    with suppress(OSError):
        if (_read_mark(partial / _LOCK, whole=True) or "").endswith(_PUBLISHED):
            _remove(partial)
        elif not partial.is_symlink():
            partial.rmdir()  # when it is empty: the last thing that was to be done


def remove_lock(directory: Path) -> None:
    """Remove the lock that a run killed right after its rename leaves in its finished output."""
    if _read_mark(directory / _LOCK) is not None:
        with suppress(OSError):
            (directory / _LOCK).unlink(missing_ok=True)


def _read_mark(path: Path, *, whole: bool = False) -> str | None:
    """Return the command that a lock names, "" for an empty one, as it was before they had names, or none at all; None
    for a file that is not soupkit's. `whole` adds what else is written there."""
    try:
        descriptor = os.open(path, os.O_RDONLY | CLOEXEC | NOFOLLOW | NONBLOCK)
    except FileNotFoundError:
        return ""
    except OSError:
        return None
    try:
        text = os.read(descriptor, 200).decode("utf-8", "replace")
    except OSError:
        return None
    finally:
        os.close(descriptor)
    if text and not text.startswith(_OURS):
        return None
    mark = text.removeprefix(_OURS).strip()
    return mark if whole else mark.partition(",")[0]


def _replaced_path(target: Path) -> Path:
    return target.with_name(target.name + _REPLACED)


def _move_aside(target: Path, replaced: Path) -> None:
    """Move `target` into the directory `replaced`, which says that soupkit made it. Raises StorageError, OSError."""
    _remove_marked(replaced)
    try:
        replaced.mkdir()
    except FileExistsError:
        raise StorageError("is in the way", replaced, "move it away") from None
    (replaced / _LOCK).write_text(f"{_OURS}replaced\n", "utf-8")
    target.rename(replaced / "output")


def _remove_marked(replaced: Path) -> None:
    """Remove an output that was moved aside; nothing that soupkit has not marked, and no error where it cannot be."""
    if replaced.is_symlink() or not replaced.is_dir():
        return
    with suppress(OSError):
        if _read_mark(replaced / _LOCK) == "replaced" or not any(replaced.iterdir()):
            _remove(replaced)


def _clear(directory: Path) -> None:
    for entry in directory.iterdir():
        if entry.name == _LOCK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _remove(directory: Path) -> None:
    _clear(directory)
    (directory / _LOCK).unlink(missing_ok=True)
    directory.rmdir()
