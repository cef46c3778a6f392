"""The files of a checkpoint that lie side by side, on disk or on the Hub: their names, and what the small ones say."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Protocol

from soupkit.errors import CheckpointError
from soupkit.files import parse_json, read_bytes, what_to_do

_MOST_LOOKED_AT = 10_000  # entries, in search of folders that could have been meant


class Folder(Protocol):
    """Where a checkpoint's files lie. `str(folder)` is what errors are about."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the files, sorted."""

    def read(self, name: str) -> bytes:
        """Return the content of a small file. Raises CheckpointError or HubError."""

    def locate(self, name: str) -> str:
        """Return what errors call a file of the folder."""


@dataclass(frozen=True, slots=True)
class LocalFolder:
    """A folder on disk, as it was when it was listed."""

    path: Path
    names: tuple[str, ...]

    @classmethod
    def list(cls, path: Path) -> "LocalFolder":
        """List the files in `path`. Raises CheckpointError."""
        try:
            return cls(path, tuple(sorted(f.name for f in path.iterdir() if f.is_file())))
        except OSError as error:
            raise CheckpointError(f"cannot be read: {error.strerror}", path, what_to_do(error)) from error

    def __str__(self) -> str:
        return str(self.path)

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        try:
            return read_bytes(self.path / name)
        except OSError as error:
            raise CheckpointError(f"cannot be read: {error.strerror}", self.path / name, what_to_do(error)) from error

    def locate(self, name: str) -> str:
        """Return the path of a file."""
        return str(self.path / name)


def read_json(folder: Folder, name: str, hint: str) -> Any:
    """Return the JSON value in the file `name`. Raises CheckpointError, with the `hint`, for what is no JSON."""
    try:
        return parse_json(folder.read(name).decode("utf-8"))
    except ValueError as error:
        raise CheckpointError(f"is not valid JSON: {str(error)[:200]}", folder.locate(name), hint) from error


def read_object(folder: Folder, name: str) -> dict[str, Any] | None:
    """Return the JSON object in the file `name`, None where the folder has no such file.

    Raises CheckpointError for anything else than a JSON object.
    """
    if name not in folder.names:
        return None
    hint = "correct it or get it again"
    document = read_json(folder, name, hint)
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError) as error:  # half of a character, as "\\ud800" is; it is written again
        raise CheckpointError("holds text that is no Unicode", folder.locate(name), hint) from error
    if not isinstance(document, dict):
        raise CheckpointError("is not a JSON object", folder.locate(name), hint)
    return document


def folders_below(path: Path, holds: Callable[[str], bool], depth: int = 2) -> list[str]:
    """Return the folders in `path`, by their paths, that have a file whose name `holds` something, at most so deep; of
    one that has, the folders within are not looked at. What cannot be listed is passed over, as are links."""
    found: list[str] = []
    waiting = [(path, 0)]
    seen = 0
    while waiting and seen < _MOST_LOOKED_AT:
        directory, level = waiting.pop(0)
        try:
            entries = sorted(directory.iterdir())
        except OSError:
            continue
        seen += len(entries)
        if level and any(holds(entry.name) for entry in entries):
            found.append(str(directory))
        elif level < depth:
            waiting += [(entry, level + 1) for entry in entries if entry.is_dir() and not entry.is_symlink()]
    return found


def matching(names: Iterable[str], patterns: Iterable[str]) -> tuple[str, ...]:
    """Return those of `names` that one of `patterns` describes, in the order of the patterns."""
    listed = list(names)
    return tuple(dict.fromkeys(name for pattern in patterns for name in listed if fnmatch(name, pattern)))
