"""What files hold, as a digest (xxh3-128), remembered while the files stay unchanged."""

import os
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import xxhash

from soupkit.errors import DataError
from soupkit.evaluation.options import EvaluationOptions
from soupkit.evaluation.task import Task
from soupkit.evaluation.text_files import unreadable
from soupkit.files import read_text, sealed, unsealed, write_cached
from soupkit.progress import SILENT, Progress

_READ_BYTES = 4 << 20
_READ_HINT = "get the file again, or mend its permissions"


def content_of(task: Task, options: EvaluationOptions, progress: Progress = SILENT) -> str:
    """Return the digest of a task's images and what belongs to them; that of the files is remembered in the cache."""
    memory = options.cache / "content" if options.cache is not None else None
    files = digest_of_files(task.dataset.files(), memory, task.name, progress)
    return xxhash.xxh3_128_hexdigest(f"{files} {task.dataset.beside_files()}".encode())


def digest_of_files(
    paths: Sequence[str], memory: Path | None, label: str, progress: Progress = SILENT, threads: int = 8
) -> str:
    """Return xxh3-128, in hex, over the contents of `paths` in their order; names and places do not count.

    Raises DataError for a file that cannot be read or changes meanwhile.
    """

    def digest(path: str) -> bytes:
        state = xxhash.xxh3_128()
        try:
            with Path(path).open("rb", buffering=0) as file:
                while block := file.read(_READ_BYTES):
                    state.update(block)
                    progress.advance(len(block))
        except OSError as error:
            raise unreadable(error, path, _READ_HINT) from error
        return state.digest()

    def compute() -> dict[str, str]:
        progress.start(f"digest of {label}", sum(Path(p).stat().st_size for p in paths), "B")
        with ThreadPoolExecutor(threads) as pool:
            value = xxhash.xxh3_128_hexdigest(b"".join(pool.map(digest, paths)))
        progress.finish()
        return {"digest": value}

    return remembered(paths, memory, label, ("digest",), compute)["digest"]


def remembered(
    paths: Sequence[str], memory: Path | None, label: str, keys: tuple[str, ...], compute: Callable[[], dict[str, str]]
) -> dict[str, str]:
    """Return what `compute` says of the files `paths`, a string for each of `keys`.

    What was computed before is kept in the directory `memory` (None for nowhere) and believed while every path, size,
    time of modification and of the inode's change, and inode are the same. Raises DataError when a file changes
    meanwhile, and for what is no regular file.
    """
    before = _states(paths)
    name = f"{xxhash.xxh3_128_hexdigest(before + repr(keys).encode())}.json"
    if memory is not None and (remembered_value := _recall(memory / name, keys)) is not None:
        return remembered_value
    value = compute()
    if _states(paths) != before:
        raise DataError("changed while it was being read", label, "let whatever writes it finish, then run again")
    if memory is not None:
        write_cached(memory / name, sealed(value))
    return value


def _states(paths: Sequence[str]) -> bytes:
    lines = []
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116 - 50,000 of them, and pathlib takes three times as long
        except OSError as error:
            raise unreadable(error, path, _READ_HINT) from error
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
            raise DataError("is no regular file", path, "put the file itself there")
        where = os.path.realpath(path)
        # A rewrite may restore the time of modification (rsync, tar); that of the inode's change it cannot.
        times = f"{status.st_mtime_ns}\t{status.st_ctime_ns}"
        lines.append(f"{where}\t{status.st_size}\t{times}\t{status.st_ino}\n")
    return "".join(lines).encode("utf-8", "surrogateescape")


def _recall(path: Path, keys: tuple[str, ...]) -> dict[str, str] | None:
    try:
        value = unsealed(read_text(path))
        return {key: str(value[key]) for key in keys}
    except (OSError, ValueError, KeyError, TypeError):
        return None
