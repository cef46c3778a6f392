"""YAML files with a schema: pydantic checks them, and every complaint names the file and the line."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError

from soupkit.errors import UsageError


class Entry(BaseModel):
    """What sections of a recipe derive from: keys that are not declared are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


AnyEntry = TypeVar("AnyEntry", bound=Entry)


def refusal(error: UsageError, place: tuple[str, ...] = ()) -> PydanticCustomError:
    """Return what a validator of an entry raises to say `error` of its field, or of what stands at `place` in it."""
    return PydanticCustomError("refused", "{what}", {"what": error.what, "hint": error.hint, "place": place})


class Document:
    """A YAML file: its `data`, and the line that each of its keys stands on."""

    def __init__(self, path: Path) -> None:
        """Read `path`. Raises UsageError when it cannot be read, is not YAML, or names a key twice."""
        self.path = path
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot be read: {error}", path) from error
        self._lines: dict[tuple[str | int, ...], int] = {}
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
            if root is not None:
                self._note_lines(root, ())
            self.data: Any = yaml.safe_load(text)
        except (yaml.YAMLError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            where = f"{path}, line {mark.line + 1}" if mark else path
            raise UsageError(f"is not valid YAML: {getattr(error, 'problem', error)}", where) from error

    def _note_lines(self, node: yaml.Node, place: tuple[str | int, ...]) -> None:
        self._lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                inner = (*place, str(key.value))
                if inner in self._lines:
                    self.refuse(f"names {key.value!r} twice", inner, line=key.start_mark.line + 1)
                self._lines[inner] = key.start_mark.line + 1
                self._note_lines(value, inner)
        elif isinstance(node, yaml.SequenceNode):
            for i, value in enumerate(node.value):
                self._note_lines(value, (*place, i))

    def refuse(self, what: str, place: tuple[str | int, ...], *, line: int | None = None, hint: str = "") -> NoReturn:
        """Raise UsageError about what stands at `place`, with its line."""
        known = next(place[:n] for n in range(len(place), -1, -1) if place[:n] in self._lines or n == 0)
        line = line or self._lines.get(known, 1)
        raise UsageError(what, f"{self.path}, line {line}", hint)

    def validate(
        self, schema: type[AnyEntry], data: Any, place: tuple[str | int, ...],
        elsewhere: Mapping[str, tuple[str | int, ...] | str] | None = None,
    ) -> AnyEntry:  # fmt: skip
        """Return `data`, which stands at `place`, as a `schema`. Raises UsageError for the first thing wrong.

        `elsewhere` says of keys that stand at another place what that place is: one of this file, or a text.
        """
        if not isinstance(data, dict):
            self.refuse(f"should be a map with the keys {', '.join(schema.model_fields)}", place)
        try:
            return schema.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            found = (elsewhere or {}).get(str(first["loc"][0]) if first["loc"] else "", place)
            place = place if isinstance(found, str) else found
            said_at = (*first["loc"], *first["ctx"]["place"]) if first["type"] == "refused" else first["loc"]
            loc = self._keys_of(said_at, place, lacking=first["type"] in ("extra_forbidden", "missing"))
            name = ".".join(str(p) for p in loc)
            said = first["msg"].removeprefix("Value error, ")
            what, hint = f"{name}: {said[:1].lower()}{said[1:]}".removeprefix(": "), ""
            if first["type"] == "refused":
                what, hint = first["ctx"]["what"], first["ctx"]["hint"]
            if first["type"] == "extra_forbidden":
                what, hint = f"there is no key {name!r} here", f"the keys are {', '.join(_keys(schema, loc))}"
            if isinstance(found, str):
                raise UsageError(what, found, hint) from error
            self.refuse(what, (*place, *loc), hint=hint)

    def _keys_of(
        self, loc: Sequence[str | int], place: tuple[str | int, ...], *, lacking: bool
    ) -> tuple[str | int, ...]:
        """Return `loc` without what pydantic adds to it, such as which of several types it tried.

        Those parts do not stand in the file at `place`, as the last one of a key that is `lacking` does not either.
        """
        kept: list[str | int] = []
        for i, part in enumerate(loc):
            if not kept or (*place, *kept, part) in self._lines or (lacking and i == len(loc) - 1):
                kept.append(part)
        return tuple(kept)


def _keys(schema: type[Entry], loc: Sequence[str | int]) -> list[str]:
    """Return the keys that there are where the last one of `loc` stands."""
    for part in loc[:-1]:
        field = schema.model_fields.get(str(part))
        inner = list(_entries(field.annotation)) if field is not None else []
        schema = inner[0] if inner else schema
    return list(schema.model_fields)


def _entries(annotation: Any) -> Iterator[type[Entry]]:
    if isinstance(annotation, type) and issubclass(annotation, Entry):
        yield annotation
    for one in get_args(annotation):
        yield from _entries(one)
