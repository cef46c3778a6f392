"""Fields of a JSON config, each of the kind that it has to be: a config is somebody else's file."""

from dataclasses import dataclass
from typing import Any

from soupkit.errors import CheckpointError

_LARGEST = 1 << 31  # of any size or count that a model has


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of one JSON object; `where` is what errors are about, the file and the section."""

    values: dict[str, Any]
    where: str

    def section(self, name: str) -> "Fields":
        """Return the fields of the object called `name`; none where it is missing or null. Raises CheckpointError."""
        value = self.values.get(name)
        return Fields(
            self._checked(name, value if value is not None else {}, dict, "an object"), f"{self.where}, {name}"
        )

    def size(self, name: str, default: int) -> int:
        """Return a size or a count, at least 1. Raises CheckpointError."""
        value = self._checked(name, self.values.get(name, default), int, "a whole number")
        if not 1 <= value <= _LARGEST:
            raise CheckpointError(
                f"has a {name} of {str(value)[:40]}", self.where, "correct the config or get it again"
            )
        return value

    def number(self, name: str, default: float) -> float:
        """Return a number. Raises CheckpointError."""
        return float(self._checked(name, self.values.get(name, default), (int, float), "a number"))

    def flag(self, name: str, default: bool) -> bool:
        """Return true or false. Raises CheckpointError."""
        value = self.values.get(name)
        return self._checked(name, default if value is None else value, bool, "true or false")

    def text(self, name: str, default: str) -> str:
        """Return a text. Raises CheckpointError."""
        return self._checked(name, self.values.get(name, default), str, "a text")

    def numbers(self, name: str, default: list[float]) -> list[float]:
        """Return a list of numbers. Raises CheckpointError."""
        values = self._checked(name, self.values.get(name, default), list, "a list of numbers")
        return [self._checked(name, value, (int, float), "a list of numbers") for value in values]

    def _checked(self, name: str, value: Any, kind: type | tuple[type, ...], what: str) -> Any:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise CheckpointError(
                f"has a {name} that is not {what}: {str(value)[:60]!r}",
                self.where,
                "correct the config or get it again",
            )
        return value
