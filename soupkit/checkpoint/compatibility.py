"""Whether checkpoints fit together: the same tensors, the same model, the same preprocessing. Headers only."""

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from soupkit.checkpoint.architecture import Architecture, Config, architecture_of
from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.clip_forms import FORMS, OPEN_CLIP
from soupkit.checkpoint.config_differences import config_differences
from soupkit.checkpoint.differences import some, tensor_differences
from soupkit.checkpoint.formats.table import Family, family_named
from soupkit.checkpoint.hub_ref import is_hub
from soupkit.checkpoint.reference import open_headers
from soupkit.errors import ArchitectureError

_RUN, _PLAIN = "run", "plain"
_OF_CLIP = "logit_scale"
# What libraries call the scales of a weight that is quantized to 8 bits, after the weight's own name.
_SCALES = ("_scale", "_scale_inv", "_scales")

SEE_COMPARE = "`soupkit compare` shows all of it"


@dataclass(frozen=True, slots=True)
class Agreement:
    """What checkpoints that fit together are: their model and config, the family that a soup of them belongs to, and
    what a person should know about it."""

    architecture: Architecture
    family: Family
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


def agree(
    checkpoints: Sequence[Checkpoint],
    *,
    model: str | None = None,
    preprocess: Path | None = None,
    to: str | None = None,
) -> Agreement:
    """Check that `checkpoints` can be averaged, and return what they are.

    Bare weights take the config of the others. A CLIP in open_clip's form fits one in transformers'; `to` names the
    form of the soup, which is otherwise the first ingredient's. Raises ArchitectureError, with the difference, for
    tensors, a config or preprocessing that differ, and for families without a common form; UsageError for a `model` or
    a `preprocess` file that is not there.
    """
    first = checkpoints[0]
    for other in checkpoints[1:]:
        if differences := tensor_differences(first, other):
            raise ArchitectureError(f"cannot be averaged with {first.ref}: {differences}", other.ref, SEE_COMPARE)
    for checkpoint in checkpoints:
        _refuse_scales(checkpoint)
    notes = [f"{c.ref}: {note}" for c in checkpoints for note in c.notes]
    _same_settings(checkpoints)
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
    family = _family_of_soup(checkpoints, architecture, to)
    if converted := [c.ref for c in checkpoints if c.family in FORMS and c.family != family]:
        notes.append(f"the soup is in the form of {family}, to which is converted: {', '.join(converted)}")
    return Agreement(architecture, family_named(family), tuple(notes))


def _family_of_soup(checkpoints: Sequence[Checkpoint], architecture: Architecture, to: str | None) -> str:
    """Return the family that a soup belongs to: `to`, or the first that an ingredient's folder names; open_clip's for
    what is a CLIP by its shapes or names alone, and for runs.

    Raises ArchitectureError for families without a common form, and for a form that the model does not have.
    """
    named = {c.ref: OPEN_CLIP if c.family == _RUN else c.family for c in checkpoints if c.family != _PLAIN}
    like_clip = architecture.config is not None or _OF_CLIP in checkpoints[0].tensors
    first, family = next(iter(named.items()), ("", OPEN_CLIP if like_clip else _PLAIN))
    for ref, other in named.items():
        if other != family and (architecture.config is None or not {family, other} <= set(FORMS)):
            raise ArchitectureError(
                f"is of the family {other}, and {first} of {family}", ref, "merge checkpoints of one library"
            )
    if to is not None and to != family and architecture.config is None:
        raise ArchitectureError(
            f"is no CLIP that open_clip builds: it has no form of {to}",
            checkpoints[0].ref,
            "leave --to out, or say with --model which model it is",
        )
    return to or family


def _same_settings(checkpoints: Sequence[Checkpoint]) -> None:
    """Raise ArchitectureError where configs of one family say different things of the model."""
    for family in dict.fromkeys(c.family for c in checkpoints if c.settings):
        differences = family_named(family).config_differences
        first, *others = (c for c in checkpoints if c.family == family)
        for other, name in ((other, name) for other in others for name in first.settings if name in other.settings):
            if differences is not None and (odd := differences(first.settings[name], other.settings[name])):
                _refuse_config(odd, "config", f"{first.path / name}", f"{other.path / name}")


def without_shared(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Return `checkpoints` without names that some of them lack and that stand, in those that have them, for the bytes
    of another tensor: weights that are tied, which a library may write once or twice."""
    everywhere = set(checkpoints[0].tensors).intersection(*(c.tensors for c in checkpoints[1:]))
    partial = {name for c in checkpoints for name in c.tensors if name not in everywhere}
    shared = {n for n in partial if all(_is_shared(c, n, everywhere) for c in checkpoints if n in c.tensors)}
    return [
        replace(c, tensors={n: s for n, s in c.tensors.items() if n not in shared}) if shared & set(c.tensors) else c
        for c in checkpoints
    ]


def _is_shared(checkpoint: Checkpoint, name: str, others: Collection[str]) -> bool:
    spec = checkpoint.tensors[name]
    return any(checkpoint.tensors[other] == spec for other in others)


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
        what = "preprocessing" if all(k.startswith("preprocess_cfg") for k in differences) else "config"
        _refuse_config(differences, what, a.config_path or a.ref, b.config_path or b.ref)


def _refuse_config(differences: Mapping[str, tuple[Any, Any]], what: str, first: object, other: object) -> NoReturn:
    shown = [f"{key}: {_short(theirs)} there, {_short(own)} here" for key, (theirs, own) in differences.items()]
    raise ArchitectureError(
        f"its {what} differs from {first}: {some(shown)}",
        other,
        "models that see or compute something else cannot be averaged; correct the config that is wrong",
    )


def _short(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value)
