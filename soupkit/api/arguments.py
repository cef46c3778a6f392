"""What callers may write: one reference or many, a text or a path, progress or none."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from soupkit.errors import UsageError
from soupkit.progress import SILENT, Progress

Ref = str | Path  # what names a checkpoint: a path, or hf-hub:ORG/NAME
Refs = Ref | Iterable[Ref]


def references(value: Any, name: str) -> list[str]:
    """Return the references that `value`, the argument `name`, names: one or many, texts or paths.

    Raises UsageError for anything else, such as a state dict, and for none.
    """
    if isinstance(value, str | os.PathLike):
        return [os.fspath(value)]
    if isinstance(value, Mapping) or not isinstance(value, Iterable):
        raise UsageError(f"is {_kind(value)}, and no reference", name, _hint(value))
    refs = list(value)
    for i, ref in enumerate(refs):
        if not isinstance(ref, str | os.PathLike):
            raise UsageError(f"is {_kind(ref)}, and no reference", f"{name}[{i}]", _hint(ref))
    if not refs:
        raise UsageError("names nothing", name, "give a path, or a list of them")
    return [os.fspath(ref) for ref in refs]


def optional_references(value: Any, name: str) -> list[str]:
    """Return the references that `value` names; none for None and for an empty list."""
    return [] if value is None or (isinstance(value, list | tuple) and not value) else references(value, name)


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a state dict" if value and all(hasattr(v, "shape") for v in value.values()) else "a mapping"
    return type(value).__name__


def _hint(value: Any) -> str:
    if isinstance(value, Mapping) or hasattr(value, "state_dict"):
        return "write it with safetensors.torch.save_file, and give the file's path"
    return "give a path, hf-hub:ORG/NAME, or a list of them"


def path(value: str | Path | None) -> Path | None:
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
