"""Whether checkpoints fit together: the same tensors, the same model, the same preprocessing. Headers only."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soupkit.checkpoint.architecture import Architecture, Config, architecture_of
from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.config_differences import config_differences
from soupkit.checkpoint.differences import some, tensor_differences
from soupkit.checkpoint.formats.table import family_named
from soupkit.checkpoint.formats.weight_files import OutputFiles
from soupkit.checkpoint.hub_ref import is_hub
from soupkit.checkpoint.reference import open_headers
from soupkit.errors import ArchitectureError

# What libraries call the scales of a weight that is quantized to 8 bits, after the weight's own name.
_SCALES = ("_scale", "_scale_inv", "_scales")


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
    for checkpoint in checkpoints:
        _refuse_scales(checkpoint)
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


def _refuse_scales(checkpoint: Checkpoint) -> None:
    """Raise ArchitectureError where weights of 8 bits are to be multiplied by scales: averaged apart they are wrong."""
    for name, spec in checkpoint.tensors.items():
        scale = next((name + end for end in _SCALES if name + end in checkpoint.tensors), None)
        if spec.itemsize == 1 and scale is not None:
            raise ArchitectureError(
                f"holds quantized weights: {name!r} in {spec.dtype}, with {scale!r}",
                checkpoint.ref,
                "dequantize them first, as the library that wrote them does, and save them in bfloat16",
            )


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
            f"its {what} differs from {a.config_path}: {some(shown)}",
            b.config_path or b.ref,
            "models that see or compute something else cannot be averaged; correct the config that is wrong",
        )


def _short(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value)
