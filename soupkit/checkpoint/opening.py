"""Whether the library of a checkpoint's family will open a soup of it: whether the config beside the weights is theirs.

The library itself is asked, where it is installed, on the names and shapes of the tensors and not on a weight.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from importlib.util import find_spec
from threading import Lock
from typing import Any

from soupkit.checkpoint.apart import Asked
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


def check_configs(checkpoints: Sequence[Checkpoint], architecture: Architecture) -> tuple[str, ...]:
    """Check that the tensors of `checkpoints`, which agree, are those of the config beside them; return what a person
    should know of it. One checkpoint of each family speaks for the others; `architecture` is what all of them are.

    Raises ArchitectureError, naming a tensor with its shape and the config's, where the family's library could not open
    the soup, or would leave out or begin anew some of its layers.
    """
    with closing(ConfigCheck(checkpoints, architecture)) as check:
        return check.wait()


class ConfigCheck:
    """`check_configs` on its way: a library of models takes seconds to answer, in a process of its own, and other work
    goes on meanwhile. To be closed in the end. Safe to use from several threads."""

    def __init__(self, checkpoints: Sequence[Checkpoint], architecture: Architecture) -> None:
        self._open = [_Question(*whom) for whom in _spokesmen(checkpoints, architecture)]
        self._notes: tuple[str, ...] = ()
        self._turn = Lock()

    def look(self) -> None:
        """Take in what is answered by now, without waiting. Raises as `check_configs` does."""
        if self._open and self._turn.acquire(blocking=False):
            try:
                while self._open and self._open[0].is_answered():
                    self._take()
            finally:
                self._turn.release()

    def wait(self) -> tuple[str, ...]:
        """Wait for all answers; return what a person should know. Raises as `check_configs` does."""
        with self._turn:
            while self._open:
                self._take()
        return self._notes

    def _take(self) -> None:
        question = self._open[0]
        self._notes += tuple(_judged(question.checkpoint, question.config, question.family, question.answer()))
        self._open.pop(0).close()

    def close(self) -> None:
        """End the processes that are still at work."""
        for question in self._open:
            question.close()


def _spokesmen(
    checkpoints: Sequence[Checkpoint], architecture: Architecture
) -> Iterator[tuple[Checkpoint, dict[str, Any], Family]]:
    """Yield a checkpoint, and its config, of each family whose library is to be asked."""
    for name, checkpoint in {c.family: c.as_written for c in reversed(checkpoints)}.items():
        family = family_named(name)
        known = name == OPEN_CLIP and (architecture.model in architecture.candidates or architecture.has_head)
        config = checkpoint.config or next(iter(checkpoint.settings.values()), None)
        if family.loading is not None and checkpoint.file_format != _IN_MEMORY and not known and config is not None:
            yield checkpoint, config, family


class _Question:
    """What a family's library is asked about one checkpoint; of all that are the same, it is asked once."""

    def __init__(self, checkpoint: Checkpoint, config: dict[str, Any], family: Family) -> None:
        assert family.loading is not None and family.library is not None
        self.checkpoint, self.config, self.family = checkpoint, config, family
        tensors = _shapes(checkpoint)
        self._key = (family.name, json.dumps(config, sort_keys=True), tuple(tensors.items()))
        self._known = _ANSWERS.get(self._key)
        self._asked: Asked[Loading | str] | None = None
        if self._known is None and find_spec(family.library) is None:
            self._known = f"{family.library} is not installed"
        if self._known is None:
            self._asked = Asked(family.loading, (config, tensors), family.spares)

    def is_answered(self) -> bool:
        return self._asked is None or self._asked.is_answered()

    def answer(self) -> Loading | str:
        if self._known is None:
            assert self._asked is not None
            self._known = self._asked.answer()
            while len(_ANSWERS) >= _MOST_ANSWERS:
                _ANSWERS.pop(next(iter(_ANSWERS)), None)
            _ANSWERS[self._key] = self._known
        return self._known

    def close(self) -> None:
        if self._asked is not None:
            self._asked.close()


def _shapes(checkpoint: Checkpoint) -> dict[str, tuple[str, Shape]]:
    return {n: (DTYPES[s.dtype].torch_name, s.shape) for n, s in checkpoint.tensors.items()}


_Key = tuple[str, str, tuple[tuple[str, tuple[str, Shape]], ...]]
_ANSWERS: dict[_Key, Loading | str] = {}  # for all merges of the same kind
_MOST_ANSWERS = 64


def _judged(checkpoint: Checkpoint, config: dict[str, Any], family: Family, found: Loading | str) -> Iterator[str]:
    """Yield what a person should know of an answer. Raises ArchitectureError where the soup would open nowhere."""
    where = str(checkpoint.config_path)
    if isinstance(found, str):
        yield (
            f"{where}: whether {family.library} opens the soup is not known ({found}); what the config says of layers, "
            "width and vocabulary was held against the tensors, and no more"
        )
        found = known_fields.loading(config, _shapes(checkpoint))
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
