"""What a merge has done so far, on disk: one line per finished slab, so that a killed run resumes.

A line, sealed by a digest of its own, holds the digests of the chunks that the slab read and wrote. The written ones
are checked against the output before a line is believed, so a line that outlived its data (a power cut) does no harm.
"""

import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from soupkit.errors import StorageError
from soupkit.files import MOST_KEPT_BYTES, read_text, sealed, storage_error, unsealed
from soupkit.merging.plan import Slab

SlabKey = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class SlabResult:
    """The chunk digests of one slab: for each segment, a list per source (the output last) of its chunks' digests."""

    digests: tuple[tuple[tuple[bytes, ...], ...], ...]


def read_journals(directory: Path, plan_key: str) -> dict[SlabKey, SlabResult]:
    """Return the finished slabs of every journal in `directory`. A line that is damaged or cut short ends its journal.

    Raises StorageError when a journal belongs to another merge.
    """
    done: dict[SlabKey, SlabResult] = {}
    for path in sorted(directory.glob("journal-*.jsonl")):
        try:
            lines = read_text(path, most=MOST_KEPT_BYTES, errors="replace").splitlines()
        except OSError as error:
            raise StorageError(f"cannot be read: {error.strerror}", path, "start anew with --fresh") from error
        try:
            if lines and unsealed(lines[0])["plan"] != plan_key:
                raise StorageError(
                    "holds the unfinished output of a merge of other inputs or options",
                    directory,
                    "run that merge again to finish it, choose another output, or discard it with --fresh",
                )
            for line in lines[1:]:
                entry = unsealed(line)
                digests = tuple(
                    tuple(tuple(bytes.fromhex(c) for c in chunks) for chunks in sources) for sources in entry["digests"]
                )
                done[tuple((n, a, b) for n, a, b in entry["task"])] = SlabResult(digests)
        except (ValueError, KeyError, TypeError):
            continue
    return done


class Journal:
    """The journal of one process, appended to after each slab. Safe to use from several threads."""

    def __init__(self, directory: Path, rank: int, plan_key: str) -> None:
        self._path = directory / f"journal-{rank}.jsonl"
        self._plan_key = plan_key
        self._file: TextIO | None = None
        self._lock = threading.Lock()

    def open(self) -> None:
        """Begin a new journal file. What earlier ones said has been read by then, and is said again when verified."""
        try:
            self._file = self._path.open("w", encoding="utf-8")
        except OSError as error:
            raise storage_error(error, self._path, 0) from error
        self._append({"plan": self._plan_key})

    def record(self, slab: Slab, result: SlabResult) -> None:
        """Append a finished slab."""
        digests = [[[c.hex() for c in chunks] for chunks in sources] for sources in result.digests]
        self._append({"task": slab.key, "digests": digests})

    def _append(self, entry: dict[str, object]) -> None:
        with self._lock:
            assert self._file is not None
            try:
                self._file.write(sealed(entry) + "\n")
                self._file.flush()
            except OSError as error:
                raise storage_error(error, self._path, 0) from error

    def close(self) -> None:
        """Close the file; it stays on disk."""
        if self._file is not None:
            with suppress(OSError):  # what could not be written was an error when it was recorded
                self._file.close()
            self._file = None
