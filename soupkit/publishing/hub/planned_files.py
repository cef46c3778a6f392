"""Files of a repository, compared with those that it holds already."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from soupkit.checkpoint.sha256 import sha256_of

_LARGE = 10 << 20  # bytes; files from here on are never kept by git's name on the Hub
Contents = dict[str, "RepositoryFile"]
# What a repository holds: git's name and the sha256 of each file, by its path; one of the two may be unknown.
Held = Mapping[str, tuple[str | None, str | None]]


@dataclass(frozen=True, slots=True)
class RepositoryFile:
    """What a file of a repository is to be: bytes, or a file on disk."""

    content: bytes | Path
    size: int
    sha256: str

    @classmethod
    def of(cls, content: bytes | Path, sha256: str | None = None) -> "RepositoryFile":
        """Measure `content`; `sha256` where it was taken before. Raises OSError."""
        if isinstance(content, bytes):
            return cls(content, len(content), sha256 or hashlib.sha256(content).hexdigest())
        return cls(content, content.stat().st_size, sha256 or sha256_of(content))

    def read(self) -> bytes:
        """Return its bytes. Raises OSError."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()

    @property
    def git_name(self) -> str:
        """What git calls a blob of these bytes, sha1 over its header and them; empty for large files."""
        if self.size >= _LARGE:
            return ""
        state = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        state.update(self.read())
        return state.hexdigest()


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file of a push: its path in the repository, size in bytes, sha256, git's name of it (empty for large files),
    and whether it is "new", "changed" or "same" there ("unknown" where the Hub was not asked)."""

    path: str
    size: int
    sha256: str
    git: str
    status: str = "new"

    def is_held(self, held: tuple[str | None, str | None]) -> bool:
        """Whether a file there has these bytes: large ones are known by sha256, others by git's name."""
        git, sha256 = held
        return sha256 == self.sha256 if sha256 is not None else git == self.git


def plan(contents: Contents, held: Held, *, known: bool = True) -> list[PlannedFile]:
    """Compare what is to be with what is `held`; `known` is whether that was asked at all."""
    planned = []
    for path, file in contents.items():
        new = PlannedFile(path, file.size, file.sha256, file.git_name)
        status = "new" if path not in held else "same" if new.is_held(held[path]) else "changed"
        planned.append(replace(new, status=status if known else "unknown"))
    return planned
