"""What is attacked, and what reading it means."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.attacks import edits


@dataclass(frozen=True)
class Reader:
    """What is attacked: `make` writes a good input into a directory, `attacks` say how each of its files is edited (a
    pattern stands for the files that it matches), and `read` reads the input. The suite tries so many `examples`, fewer
    where one takes long.
    """

    name: str
    make: Callable[[Path], None]
    attacks: Mapping[str, edits.Edit]
    read: Callable[[Path], object]
    examples: int = 40

    def targets(self, directory: Path) -> dict[str, edits.Edit]:
        """Return the files of the input in `directory` that are attacked, and how."""
        return {
            path.relative_to(directory).as_posix(): edit
            for pattern, edit in self.attacks.items()
            for path in sorted(directory.glob(pattern))
            if path.is_file()
        }
