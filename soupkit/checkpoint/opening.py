"""Whether the library of a checkpoint's family will open a soup of it: whether the config beside the weights is theirs.

The library itself is asked, where it is installed, on the names and shapes of the tensors and not on a weight.
"""

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from soupkit.checkpoint.apart import apart
from soupkit.checkpoint.architecture import Architecture
from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.clip_forms import OPEN_CLIP
from soupkit.checkpoint.differences import some
from soupkit.checkpoint.dtypes import DTYPES
from soupkit.checkpoint.formats import known_fields
from soupkit.checkpoint.formats.loading import Loading, Shape
from soupkit.checkpoint.formats.table import Family, family_named
from soupkit.errors import ArchitectureError

_IN_MEMORY = "memory"  # a module that brings a config was built from it


def check_configs(checkpoints: Sequence[Checkpoint], architecture: Architecture) -> list[str]:
    """Check that the tensors of `checkpoints`, which agree, are those of the config beside them; return what a person
    should know of it. One checkpoint of each family speaks for the others; `architecture` is what all of them are.

    Raises ArchitectureError, naming a tensor with its shape and the config's, where the family's library could not open
    the soup, or would leave out or begin anew some of its layers.
    """
    notes: list[str] = []
    for family, checkpoint in {c.family: c.as_written for c in reversed(checkpoints)}.items():
        row = family_named(family)
        known = family == OPEN_CLIP and (architecture.model in architecture.candidates or architecture.has_head)
        if row.loading is not None and checkpoint.file_format != _IN_MEMORY and not known:
            notes += _check(checkpoint, row)
    return notes


def _check(checkpoint: Checkpoint, family: Family) -> Iterator[str]:
    """Check one checkpoint; yield what a person should know."""
    config = checkpoint.config or next(iter(checkpoint.settings.values()), None)
    if config is None:
        return
    tensors = tuple((n, (DTYPES[s.dtype].torch_name, s.shape)) for n, s in checkpoint.tensors.items())
    where = str(checkpoint.config_path)
    found = _loading(family.name, json.dumps(config, sort_keys=True), tensors)
    if isinstance(found, str):
        yield (
            f"{where}: whether {family.library} opens the soup is not known ({found}); what the config says of layers, "
            "width and vocabulary was held against the tensors, and no more"
        )
        found = known_fields.loading(config, dict(tensors))
    if not found:
        raise ArchitectureError(
            f"does not describe the weights beside it: {_differences(checkpoint, config, found)}",
            where,
            f"bring the config that they were saved with: {family.library} could not open a soup of them",
        )
    if found.new:
        yield f"{family.library}'s {found.model} begins anew what the weights lack: {some(found.new)}"
    if found.unused:
        yield f"{family.library}'s {found.model} has no use for {some(found.unused)}; the soup has them all the same"


@lru_cache(maxsize=64)
def _loading(family: str, config: str, tensors: tuple[tuple[str, tuple[str, Shape]], ...]) -> Loading | str:
    """Ask the library of a family, once for all merges of the same kind."""
    row = family_named(family)
    assert row.loading is not None and row.library is not None
    if find_spec(row.library) is None:
        return f"{row.library} is not installed"
    return apart(row.loading, json.loads(config), dict(tensors))


def _differences(checkpoint: Checkpoint, config: dict[str, Any], found: Loading) -> str:
    """Say how the tensors differ from those of the config, tensors of another shape with the keys that say so."""

    def at(name: str) -> str:
        spec = checkpoint.tensors.get(name)
        return f" in {spec.extents[0].file.name}" if spec is not None and spec.extents else ""

    parts = []
    if found.reshaped:
        shown = [f"{n} {list(own)}{at(n)} instead of {list(wanted)}" for n, wanted, own in found.reshaped]
        keys = _keys(config, found.reshaped[0][1], found.reshaped[0][2])
        parts.append(f"{len(shown)} tensors of another shape ({some(shown)}{keys})")
    if found.missing:
        parts.append(f"{len(found.missing)} tensors missing ({some(found.missing)})")
    if found.unexpected:
        shown = [name + at(name) for name in found.unexpected]
        parts.append(f"{len(found.unexpected)} unexpected ({some(shown)})")
    return "; ".join(parts)


def _keys(config: dict[str, Any], wanted: Shape, own: Shape) -> str:
    """Name the keys of a config that are the sizes which a tensor should have and has not; no more than a few."""
    sizes = {w for w, o in zip(wanted, own, strict=False) if w != o}
    keys: list[str] = []
    waiting: list[tuple[str, Any]] = [("", config)]
    while waiting:
        path, value = waiting.pop(0)
        if isinstance(value, dict):
            waiting += [(f"{path}.{key}" if path else str(key), inner) for key, inner in value.items()]
        elif type(value) is int and value in sizes:
            keys.append(f"{path}: {value}")
    return f"; the config says {', '.join(keys)}" if 0 < len(keys) <= 3 else ""
