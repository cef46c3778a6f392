"""What callers may write: one checkpoint or many, a text, a path or weights in memory, progress or none."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from soupkit.checkpoint.in_memory import held, is_weights
from soupkit.errors import UsageError
from soupkit.progress import SILENT, Progress

if TYPE_CHECKING:
    from torch import Tensor, nn

Ref: TypeAlias = Union[str, "os.PathLike[str]"]  # what names a checkpoint: a path, or hf-hub:ORG/NAME
Refs: TypeAlias = Union[Ref, "Iterable[Ref]"]
Weights: TypeAlias = Union["Mapping[str, Tensor]", "nn.Module"]  # in memory
Checkpoints: TypeAlias = Union[Ref, Weights, "Iterable[Ref | Weights]"]

_HINT = "give a path, hf-hub:ORG/NAME, or a list of them"


def checkpoint_list(value: Any, name: str) -> list[Any]:
    """Return the checkpoints that `value`, the argument `name`, is: one or many, references or weights in memory.

    Raises UsageError for anything else, and for none.
    """
    if is_weights(value):
        return [value]
    if isinstance(value, str | os.PathLike) or not isinstance(value, Iterable):
        return list(references(value, name))
    listed = [one if is_weights(one) else reference(one, f"{name}[{i}]") for i, one in enumerate(value)]
    return listed or references(listed, name)


@contextmanager
def checkpoints(value: Any, name: str) -> Iterator[list[str]]:
    """Give a reference to each of the checkpoints that `value` is, to those in memory for as long as this lasts."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(held(one, f"{name}[{i}]")) if is_weights(one) else one
            for i, one in enumerate(checkpoint_list(value, name))
        ]


def reference(value: Any, name: str) -> str:
    """Return the one reference that `value`, the argument `name`, is: a text or a path. Raises UsageError."""
    if not isinstance(value, str | os.PathLike):
        raise UsageError(f"is {_kind(value)}, and no reference", name, "give one path, or hf-hub:ORG/NAME")
    return os.fspath(value)


def references(value: Any, name: str) -> list[str]:
    """Return the references that `value`, the argument `name`, names: one or many, texts or paths.

    Raises UsageError for anything else, such as a state dict, and for none.
    """
    if isinstance(value, str | os.PathLike):
        return [os.fspath(value)]
    if isinstance(value, Mapping) or not isinstance(value, Iterable):
        raise UsageError(f"is {_kind(value)}, and no reference", name, _HINT)
    refs = [reference(ref, f"{name}[{i}]") for i, ref in enumerate(value)]
    if not refs:
        raise UsageError("names nothing", name, _HINT)
    return refs


def optional_references(value: Any, name: str) -> list[str]:
    """Return the references that `value` names; none for None and for an empty list."""
    return [] if value is None or (isinstance(value, list | tuple) and not value) else references(value, name)


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a state dict" if value and all(hasattr(v, "shape") for v in value.values()) else "a mapping"
    return type(value).__name__


def plain(value: Any) -> Any:
    """Return a number or an array of numpy's or torch's as Python's own; torch's dtypes and devices by name."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return str(value).removeprefix("torch.") if type(value).__module__ == "torch" else value


def checked(value: Any, kind: Any, name: str) -> Any:
    """Return `value`, the argument `name`, as the `kind` that it is annotated with. Raises UsageError for another."""
    from pydantic import TypeAdapter, ValidationError

    value = plain(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # which a field of floats takes too
    try:
        return TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        said = error.errors()[0]["msg"]
        raise UsageError(f"is {value!r:.60}: {said[:1].lower()}{said[1:]}", name, "correct its value") from error


def path(value: "str | os.PathLike[str] | None") -> Path | None:
    """Return a path, None for None."""
    return None if value is None else Path(value)


def watched(progress: bool | Progress | None) -> Progress:
    """Return whom the work tells what it is doing: with True as a command tells it, with None in notebooks only."""
    from soupkit.cli.output import in_notebook
    from soupkit.cli.progress import terminal_progress

    if progress is None:
        progress = in_notebook()
    if isinstance(progress, bool):
        return terminal_progress() if progress else SILENT
    return progress
