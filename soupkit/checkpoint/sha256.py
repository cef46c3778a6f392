"""sha256 of files: what the Hub names large files by, and what published checkpoints are compared with."""

import hashlib
from pathlib import Path

from soupkit.files import naming, open_file
from soupkit.progress import SILENT, Progress

_READ_BYTES = 4 << 20


def sha256_of(path: Path, progress: Progress = SILENT) -> str:
    """Return the sha256 of the file at `path`, in hexadecimal; advances `progress` by the bytes read.

    Raises OSError, which names the file.
    """
    state = hashlib.sha256()
    with naming(path), open_file(path) as file:
        while piece := file.read(_READ_BYTES):
            state.update(piece)
            progress.advance(len(piece))
    return state.hexdigest()
