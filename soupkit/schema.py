"""YAML files with a schema: pydantic checks them, and every complaint names the file and the line."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError

from soupkit.errors import UsageError
from soupkit.system import CLOEXEC, NONBLOCK


class Entry(BaseModel):
    """What sections of a recipe derive from: keys that are not declared are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


AnyEntry = TypeVar("AnyEntry", bound=Entry)
KeyPath = tuple[str | int, ...]  # the keys and list positions that lead to a value: ("train", "a", "data", 0)


LIMIT = 1 << 20  # bytes
NODES = 100_000
DEPTH = 50
_DIGITS = 40
_TEXT, _INTEGER, _MERGE = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "merge"))


def refusal(error: UsageError, key_path: tuple[str, ...] = ()) -> PydanticCustomError:
    """Return what a validator of an entry raises to say `error` of its field, or of what is at `key_path` in it."""
    return PydanticCustomError("refused", "{what}", {"what": error.what, "hint": error.hint, "key_path": key_path})


class Document:
    """A YAML file: its `data`, and the line that each of its keys stands on."""

    def __init__(self, path: Path) -> None:
        """Read `path`. Raises UsageError when it cannot be read, is not YAML, names a key twice or a key that is no
        text, or is beyond the limits: LIMIT bytes, NODES values with all that aliases stand for, DEPTH levels."""
        self.path = path
        self._lines: dict[KeyPath, int] = {}
        self._left = NODES
        try:
            loader = yaml.SafeLoader(self._read())
            root = loader.get_single_node()
            if root is not None:
                self._walk(root, (), ())
            self.data: Any = loader.construct_document(root) if root is not None else None
        except (yaml.YAMLError, RecursionError, ValueError, TypeError, AttributeError, LookupError) as error:
            mark = getattr(error, "problem_mark", None)
            where = f"{path}, line {mark.line + 1}" if mark else path
            what = f"is not valid YAML: {getattr(error, 'problem', None) or error}"
            raise UsageError(what[:300], where, "correct it there") from error

    def _read(self) -> str:
        try:
            with _opened(self.path) as file:
                content = file.read(LIMIT + 1)
            if len(content) > LIMIT:
                raise UsageError(f"is larger than {LIMIT >> 20} MiB", self.path, "is it a recipe?")
            return content.decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot be read: {error}", self.path, "check the path; a recipe is UTF-8 text") from error

    def _walk(self, node: yaml.Node, key_path: KeyPath, around: tuple[yaml.Node, ...]) -> None:
        """Note the lines of what is in `node`, and refuse what no recipe needs; `around` are the nodes it is in."""
        line = node.start_mark.line + 1
        self._lines.setdefault(key_path, line)
        self._left -= 1
        if self._left < 0:
            hint = "an alias counts with all that it stands for; a sweep makes many runs from one"
            self.refuse(f"holds more than {NODES:,} values", key_path, line=line, hint=hint)
        if node in around:
            self.refuse("an alias stands for what it is in", key_path, line=line, hint="write it out")
        if len(around) > DEPTH:
            self.refuse(f"is nested more than {DEPTH} levels deep", key_path, line=line, hint="write it flatter")
        around = (*around, node)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                self._check_key(key, key_path)
                inner = (*key_path, str(key.value))
                if inner in self._lines and inner[-1] != "<<":
                    what = f"names {key.value!r} twice"
                    self.refuse(what, inner, line=key.start_mark.line + 1, hint="remove one of the two")
                self._lines[inner] = key.start_mark.line + 1
                self._walk(value, inner, around)
        elif isinstance(node, yaml.SequenceNode):
            for i, value in enumerate(node.value):
                self._walk(value, (*key_path, i), around)
        elif node.tag == _INTEGER and len(node.value) > _DIGITS:
            self.refuse("is too long a number", key_path, line=line, hint=f"at most {_DIGITS} digits")

    def _check_key(self, key: yaml.Node, key_path: KeyPath) -> None:
        if key.tag not in (_TEXT, _MERGE):
            text = key.value if isinstance(key, yaml.ScalarNode) else "a list or a map"
            hint = "write it in quotes" if isinstance(key, yaml.ScalarNode) else "name it by a word"
            self.refuse(f"the key {text:.50} is no text", key_path, line=key.start_mark.line + 1, hint=hint)

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


def _opened(path: Path) -> BinaryIO:
    """Open a recipe for reading; a pipe as well (`soupkit run <(...)`), which is empty where nobody writes to it."""
    if not path.is_fifo():
        return path.open("rb")
    descriptor = os.open(path, os.O_RDONLY | CLOEXEC | NONBLOCK)
    os.set_blocking(descriptor, True)
    return os.fdopen(descriptor, "rb")


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
