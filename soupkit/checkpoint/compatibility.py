"""Whether checkpoints fit together: the same tensors, the same model, the same preprocessing. Headers only."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soupkit.checkpoint.architecture import Architecture, Config, architecture_of
from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.formats.table import family_named
from soupkit.checkpoint.formats.weight_files import OutputFiles
from soupkit.checkpoint.hub import is_hub
from soupkit.checkpoint.reference import open_headers
from soupkit.errors import ArchitectureError

_SHOWN = 6


@dataclass(frozen=True, slots=True)
class TensorDifferences:
    """How the tensors of a checkpoint differ from a reference's; `reshaped` maps a name to (reference's, its own)."""

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    reshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    dtypes: dict[str, tuple[str, str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether averaging is impossible; other dtypes alone do not stand in its way."""
        return bool(self.missing or self.unexpected or self.reshaped)

    def __str__(self) -> str:
        parts = []
        if self.missing:
            parts.append(f"{len(self.missing)} tensors missing ({_some(self.missing)})")
        if self.unexpected:
            parts.append(f"{len(self.unexpected)} unexpected ({_some(self.unexpected)})")
        if self.reshaped:
            shown = [f"{n} {list(b)} instead of {list(a)}" for n, (a, b) in self.reshaped.items()]
            parts.append(f"{len(self.reshaped)} of another shape ({_some(shown)})")
        return "; ".join(parts)


def _some(items: Sequence[str]) -> str:
    more = f", and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more


def tensor_differences(reference: Checkpoint, other: Checkpoint) -> TensorDifferences:
    """Compare the names, shapes and dtypes of two checkpoints."""
    a, b = reference.tensors, other.tensors
    shared = [name for name in a if name in b]
    return TensorDifferences(
        missing=tuple(name for name in a if name not in b),
        unexpected=tuple(name for name in b if name not in a),
        reshaped={n: (a[n].shape, b[n].shape) for n in shared if a[n].shape != b[n].shape},
        dtypes={n: (a[n].dtype, b[n].dtype) for n in shared if a[n].dtype != b[n].dtype},
    )


def config_differences(a: Config, b: Config) -> dict[str, tuple[Any, Any]]:
    """Compare two configs; returns dotted keys with both values, where they differ (None: not there).

    What only names or describes (the tokenizer's kwargs count, `pretrained` does not) is left out.
    """
    flat_a, flat_b = _flatten(a), _flatten(b)
    keys = [*flat_a, *(k for k in flat_b if k not in flat_a)]
    return {k: (flat_a.get(k), flat_b.get(k)) for k in keys if flat_a.get(k) != flat_b.get(k)}


def _flatten(config: Config) -> dict[str, Any]:
    flat: dict[str, Any] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{path}.{key}" if path else key)
        else:
            flat[path] = value

    # open_clip reads these two; the rest of the file ("pretrained", notes) does not change what a model computes
    for section in ("model_cfg", "preprocess_cfg"):
        walk(config.get(section) or {}, section)
    return {k: _scalar_size(k, v) for k, v in flat.items()}


def _scalar_size(key: str, value: Any) -> Any:
    """224 and [224, 224] are the same size."""
    if key.endswith((".size", ".image_size")) and isinstance(value, list) and len(set(value)) == 1:
        return value[0]
    return value


@dataclass(frozen=True, slots=True)
class Agreement:
    """What checkpoints that fit together are: their model and config, what the files of a soup of them are called, and
    what a person should know about it."""

    architecture: Architecture
    output: OutputFiles
    notes: tuple[str, ...]

    @property
    def config(self) -> Config | None:
        """The `open_clip_config.json` of all of them, None where they are no open_clip model."""
        return self.architecture.config

    @property
    def model(self) -> str | None:
        """open_clip's name of the model, None where it has none."""
        return self.architecture.model

    @property
    def model_from(self) -> str | None:
        """How the model is known, as `soup.json` says it."""
        return self.architecture.source


def agree(checkpoints: Sequence[Checkpoint], *, model: str | None = None, preprocess: Path | None = None) -> Agreement:
    """Check that `checkpoints` can be averaged, and return what they are.

    Bare weights take the config of the others. Raises ArchitectureError, with the difference, for tensors, a config or
    preprocessing that differ; UsageError for a `model` or a `preprocess` file that is not there.
    """
    first = checkpoints[0]
    for other in checkpoints[1:]:
        if differences := tensor_differences(first, other):
            raise ArchitectureError(
                f"cannot be averaged with {first.ref}: {differences}", other.ref, "`soupkit compare` shows all of it"
            )
    notes = [f"{c.ref}: {note}" for c in checkpoints for note in c.notes]
    configured = [c for c in checkpoints if c.config is not None]
    for other in configured[1:]:
        _same_config(configured[0], other)
    speaker = configured[0] if configured else first
    architecture = architecture_of(speaker, model=model, preprocess=preprocess)
    if configured and len(configured) < len(checkpoints):
        bare = ", ".join(c.ref for c in checkpoints if c.config is None)
        notes.append(f"{bare}: no config beside the weights; taken to be what {speaker.ref} is")
    if architecture.source == "shapes":
        others = ", ".join(architecture.candidates[1:])
        notes.append(
            f"no config beside the weights; by their shapes they are taken to be {architecture.model}, with OpenAI's "
            f"preprocessing" + (f" (these have the same shapes: {others}; choose with --model)" if others else "")
        )
    return Agreement(architecture, family_named(first.family).output, tuple(notes))


def check_before_download(
    refs: Sequence[str | Path], *, model: str | None = None, preprocess: Path | None = None
) -> None:
    """Check by headers alone that `refs` can be averaged, where one of several is on the Hub: what does not fit
    together is not worth a download. Raises as `agree` and `open_headers` do."""
    if len(refs) < 2 or not any(is_hub(ref) for ref in refs):
        return
    with ExitStack() as opened:
        agree([opened.enter_context(open_headers(ref)) for ref in refs], model=model, preprocess=preprocess)


def _same_config(a: Checkpoint, b: Checkpoint) -> None:
    assert a.config is not None and b.config is not None
    if differences := config_differences(a.config, b.config):
        shown = [f"{key}: {_short(theirs)} there, {_short(own)} here" for key, (theirs, own) in differences.items()]
        what = "preprocessing" if all(k.startswith("preprocess_cfg") for k in differences) else "config"
        raise ArchitectureError(
            f"its {what} differs from {a.config_path}: {_some(shown)}",
            b.config_path or b.ref,
            "models that see or compute something else cannot be averaged; correct the config that is wrong",
        )


def _short(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value)
