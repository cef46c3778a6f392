"""Where the bytes of tensors come from: files on disk, and whatever else can be read from a position on."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from soupkit.errors import CheckpointError
from soupkit.files import check_regular, what_to_do
from soupkit.system import open_for_reading, read_at

if TYPE_CHECKING:
    from typing import Self


class Source(Protocol):
    """Bytes that can be read from any position on, by several threads at once.

    `path` names them, on disk where they are a file; `descriptor` is that of an open file, None where there is none;
    `size` counts the bytes; `stamp` is a list of numbers and texts that change with them.
    """

    @property
    def path(self) -> Path: ...  # noqa: D102

    @property
    def descriptor(self) -> int | None: ...  # noqa: D102

    @property
    def size(self) -> int: ...  # noqa: D102

    @property
    def stamp(self) -> list[Any]: ...  # noqa: D102

    def read(self, offset: int, view: memoryview) -> int:
        """Fill the beginning of `view` with bytes from `offset` on; return how many, 0 at the end. Raises OSError."""

    def check_unchanged(self) -> None:
        """Raise CheckpointError when the bytes were changed since they were opened."""

    def close(self) -> None:
        """Let go of what is held."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that is open for reading, and what it looked like when it was opened."""

    path: Path
    descriptor: int
    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def open(cls, path: Path) -> "Self":
        """Open `path`; raises CheckpointError where that is not possible."""
        try:
            check_regular(path)
            descriptor = open_for_reading(path)
        except OSError as error:
            raise CheckpointError(f"cannot be read: {error.strerror}", path, what_to_do(error)) from error
        status = os.fstat(descriptor)
        return cls(path, descriptor, status.st_size, status.st_mtime_ns, status.st_ino)

    @property
    def stamp(self) -> list[Any]:
        """The file and its state: where it is, its size, its time of modification and its inode."""
        return [str(self.path.resolve()), self.size, self.mtime_ns, self.inode]

    def read(self, offset: int, view: memoryview) -> int:
        """Fill the beginning of `view` with bytes from `offset` on; return how many, 0 at the end. Raises OSError."""
        return read_at(self.descriptor, view, offset)

    def check_unchanged(self) -> None:
        """Raise CheckpointError when the file was changed or replaced since it was opened."""
        try:
            now = self.path.stat()
        except OSError as error:
            raise CheckpointError(
                f"disappeared while it was in use: {error.strerror}", self.path, "put it back, then run again"
            ) from error
        if (now.st_size, now.st_mtime_ns, now.st_ino) != (self.size, self.mtime_ns, self.inode):
            raise CheckpointError(
                "changed while it was being read", self.path, "let whatever writes it finish, then run again"
            )

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)
