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
KeyPath = tuple[str | int, ...]  # the keys and list positions that lead to a value: ("train", "a", "data", 0)


def refusal(error: UsageError, key_path: tuple[str, ...] = ()) -> PydanticCustomError:
    """Return what a validator of an entry raises to say `error` of its field, or of what is at `key_path` in it."""
    return PydanticCustomError("refused", "{what}", {"what": error.what, "hint": error.hint, "key_path": key_path})


class Document:
    """A YAML file: its `data`, and the line that each of its keys stands on."""

    def __init__(self, path: Path) -> None:
        """Read `path`. Raises UsageError when it cannot be read, is not YAML, or names a key twice."""
        self.path = path
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot be read: {error}", path, "check the path; a recipe is UTF-8 text") from error
        self._lines: dict[KeyPath, int] = {}
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
            if root is not None:
                self._note_lines(root, ())
            self.data: Any = yaml.safe_load(text)
        except (yaml.YAMLError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            where = f"{path}, line {mark.line + 1}" if mark else path
            raise UsageError(
                f"is not valid YAML: {getattr(error, 'problem', error)}", where, "correct it there"
            ) from error

    def _note_lines(self, node: yaml.Node, key_path: KeyPath) -> None:
        self._lines.setdefault(key_path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                inner = (*key_path, str(key.value))
                if inner in self._lines:
                    self.refuse(f"names {key.value!r} twice", inner, line=key.start_mark.line + 1)
                self._lines[inner] = key.start_mark.line + 1
                self._note_lines(value, inner)
        elif isinstance(node, yaml.SequenceNode):
            for i, value in enumerate(node.value):
                self._note_lines(value, (*key_path, i))

    def refuse(self, what: str, key_path: KeyPath, *, line: int | None = None, hint: str = "") -> NoReturn:
        """Raise UsageError about what stands at `key_path`, with its line."""
        lengths = range(len(key_path), -1, -1)  # of what is missing, the line of the nearest key around it is given
        line = line or next((self._lines[key_path[:n]] for n in lengths if key_path[:n] in self._lines), 1)
        raise UsageError(what, f"{self.path}, line {line}", hint)

    def validate(
        self, schema: type[AnyEntry], data: Any, key_path: KeyPath,
        elsewhere: Mapping[str, KeyPath | str] | None = None,
    ) -> AnyEntry:  # fmt: skip
        """Return `data`, which stands at `key_path`, as a `schema`. Raises UsageError for the first thing wrong.

        `elsewhere` says of keys that stand elsewhere where that is: a path of keys in this file, or a text.
        """
        if not isinstance(data, dict):
            self.refuse(f"should be a map with the keys {', '.join(schema.model_fields)}", key_path)
        try:
            return schema.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            origin = (elsewhere or {}).get(str(first["loc"][0]) if first["loc"] else "", key_path)
            key_path = key_path if isinstance(origin, str) else origin
            refused = first["ctx"] if first["type"] == "refused" else None
            said_at = (*first["loc"], *refused["key_path"]) if refused else first["loc"]
            loc = self._keys_of(said_at, key_path, lacking=first["type"] in ("extra_forbidden", "missing"))
            name = ".".join(str(p) for p in loc)
            said = first["msg"].removeprefix("Value error, ")
            what, hint = f"{name}: {said[:1].lower()}{said[1:]}".removeprefix(": "), "correct it there"
            if refused:
                what, hint = refused["what"], refused["hint"]
            if first["type"] == "extra_forbidden":
                what, hint = f"there is no key {name!r} here", f"the keys are {', '.join(_keys(schema, loc))}"
            if isinstance(origin, str):
                raise UsageError(what, origin, hint) from error
            self.refuse(what, (*key_path, *loc), hint=hint)

    def _keys_of(self, loc: Sequence[str | int], key_path: KeyPath, *, lacking: bool) -> KeyPath:
        """Return `loc` without what pydantic adds to it, such as which of several types it tried.

        Those parts do not stand in the file at `key_path`, as the last one of a key that is `lacking` does not either.
        """
        kept: list[str | int] = []
        for i, part in enumerate(loc):
            if not kept or (*key_path, *kept, part) in self._lines or (lacking and i == len(loc) - 1):
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
