"""Temporary directories that a killed process leaves are removed by the next one.

Each is locked for as long as its process, or a fork of it, lives: one whose lock is free belongs to nobody any more.
"""

import os
import re
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from soupkit.system import CLOEXEC, DIRECTORY, NOFOLLOW, lock

_PREFIX = "soupkit-scratch-"
_NAME = re.compile(re.escape(_PREFIX) + r"[a-z0-9_]{8}")  # as tempfile makes them
_YOUNG = 60.0  # seconds in which one may have been made and not be locked yet


class ScratchDirectory(tempfile.TemporaryDirectory[str]):
    """A `TemporaryDirectory` in TMPDIR; making one removes what killed processes of this user left there."""

    def __init__(self) -> None:
        _sweep(Path(tempfile.gettempdir()))
        super().__init__(prefix=_PREFIX)
        self._lock = -1
        if DIRECTORY is not None:
            self._lock = os.open(self.name, os.O_RDONLY | DIRECTORY | CLOEXEC)
            lock(self._lock, shared=True)  # nobody else but a sweep asks for it, and that does not wait

    def cleanup(self) -> None:
        """Remove the directory."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        super().cleanup()


def _sweep(place: Path) -> None:
    """Remove directories in `place` that ScratchDirectory made for processes that are gone; where directories cannot be
    locked, nobody knows of them."""
    if DIRECTORY is None:
        return
    with suppress(OSError):
        for entry in os.scandir(place):
            if _NAME.fullmatch(entry.name):
                _remove_if_left(Path(entry.path))


def _remove_if_left(directory: Path) -> None:
    try:
        descriptor = os.open(directory, os.O_RDONLY | (DIRECTORY or 0) | CLOEXEC | NOFOLLOW)
    except OSError:  # somebody else's, or gone
        return
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.getuid() or time.time() - status.st_ctime < _YOUNG:
            return
        lock(descriptor, wait=False)
        shutil.rmtree(directory, ignore_errors=True)
    except OSError:  # its process lives
        pass
    finally:
        os.close(descriptor)
