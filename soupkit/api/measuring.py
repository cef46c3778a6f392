"""Functions that measure: compare, evaluate, classify."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from soupkit.api.arguments import (
    Checkpoints,
    Ref,
    Refs,
    Weights,
    checked,
    checkpoint_list,
    checkpoints,
    path,
    reference,
    references,
    watched,
)
from soupkit.api.keywords import EvaluationKeywords, takes
from soupkit.api.making import evaluation_options
from soupkit.api.results import ClassificationResult, ComparisonResult, EvaluationResult
from soupkit.api.shown import shown_as
from soupkit.errors import UsageError
from soupkit.evaluation import EvaluationOptions
from soupkit.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor, nn
    from typing_extensions import Unpack

    from soupkit.evaluation.live import LiveModel, PictureData
    from soupkit.evaluation.task import Task

_LIVE_OPTIONS = ("batch_size", "device")


def compare(
    refs: Checkpoints,
    *,
    weights: bool = False,
    base: "Ref | Weights | None" = None,
    model: str | None = None,
    preprocess: str | Path | None = None,
    progress: bool | Progress | None = None,
) -> ComparisonResult:
    """Say whether checkpoints can be averaged, and with `weights` how far apart they are.

    >>> soupkit.compare(["runs/a", "runs/b"]).mergeable
    True
    """
    from soupkit.checkpoint import compare as run

    with checkpoints(refs, "refs") as names, checkpoints([base] if base is not None else names[:1], "base") as (start,):
        result = run(
            names, weights=weights, base=None if base is None else start, model=model, preprocess=path(preprocess),
            progress=watched(progress),
        )  # fmt: skip
    return shown_as(ComparisonResult, result)


@takes(EvaluationKeywords)
def evaluate(
    models: Checkpoints,
    tasks: "Refs | Sequence[Task] | PictureData",
    *,
    data_root: str | Path | None = None,
    model: str | None = None,
    preprocess: "str | Path | Callable[[Any], Tensor] | None" = None,
    builder: str | None = None,
    label_map: str | Path | None = None,
    calibration: bool = False,
    per_class: bool = False,
    pictures: int = 0,
    probe: str | int | None = None,
    classnames: Sequence[str] | None = None,
    templates: str | Sequence[str] | None = None,
    tokenizer: "Callable[[list[str]], Tensor] | None" = None,
    name: str = "dataset",
    options: EvaluationOptions | None = None,
    progress: bool | Progress | None = None,
    **how: "Unpack[EvaluationKeywords]",
) -> EvaluationResult:
    """Score models on tasks.

    `models` are references, state dicts or modules, one or many; `tasks` are tasks by name or folder, one or many, or a
    torch Dataset of (picture, label), of which a list of pairs is one. `how` are the fields of `EvaluationOptions`
    (device, limit, cache, ...), or they are `options` together. `probe` ("all", or images per class) scores linear
    probes, `per_class` also counts by class, `pictures` keeps that many that models differ on. Raises what
    `soupkit.evaluation.evaluate` raises.

    On a Dataset a module is scored where it lies, in its own dtype: zero-shot by `encode_image` and `encode_text`, or
    as a classifier that returns logits. Then `preprocess` makes a tensor of a PIL image, `classnames` are one for each
    label (the dataset's `classes` unless given), `templates` hold `{c}`, and `name` is what the data are called.

    >>> result = soupkit.evaluate("runs/a", "digits", limit=20)
    >>> result.scores[0].n
    20
    >>> soupkit.evaluate(live_model, pictures, preprocess=to_tensor, classnames=["dark", "light"]).scores[0].task
    'dataset'
    """
    in_memory = {"classnames": classnames, "templates": templates, "tokenizer": tokenizer}
    by_name = {"data_root": data_root, "builder": builder, "label_map": label_map, "probe": probe, "options": options}
    by_name["pictures"] = pictures or None
    if _is_dataset(tasks):
        _refuse({**by_name, **how, "calibration": calibration or None}, "belongs to tasks by name", but=_LIVE_OPTIONS)
        live = _live_models(models, preprocess, tokenizer, model, how.get("device"))
        return _evaluate_live(
            live, tasks, classnames=classnames, templates=[templates] if isinstance(templates, str) else templates,
            name=name, batch_size=how.get("batch_size"), per_class=per_class, progress=watched(progress),
        )  # fmt: skip
    _refuse({**in_memory, "preprocess": preprocess if callable(preprocess) else None}, "belongs to a Dataset")
    from soupkit.evaluation import evaluate as run
    from soupkit.evaluation.probe import parse_probe

    with checkpoints(models, "models") as refs:
        result = run(
            refs, _tasks(tasks), data_root=path(data_root), model=model,
            preprocess=None if callable(preprocess) else path(preprocess), builder=builder, label_map=path(label_map),
            calibration=calibration, per_class=per_class, pictures=checked(pictures, int, "pictures"),
            probe=None if probe is None else parse_probe(str(probe)), options=evaluation_options(options, how),
            progress=watched(progress),
        )  # fmt: skip
    return shown_as(EvaluationResult, result)


def classify(
    ref: "Ref | Weights",
    images: Refs,
    labels: str | Sequence[str],
    *,
    model: str | None = None,
    preprocess: str | Path | None = None,
    device: str = "auto",
    precision: str | None = None,
    progress: bool | Progress | None = None,
) -> ClassificationResult:
    """Say which of `labels` each image shows, with probabilities, as open_clip's example does.

    >>> shown = soupkit.classify("runs/a", "picture.png", ["a dog", "a cat"])
    >>> round(sum(shown.probabilities[0]), 5)
    1.0
    """
    from dataclasses import fields

    from soupkit.evaluation.classify import label_images

    files = references(images, "images")
    words = [labels] if isinstance(labels, str) else list(labels)
    with checkpoints([ref], "ref") as (name,):
        result = label_images(
            name, [Path(file) for file in files], words, model=model, preprocess=path(preprocess), device=device,
            precision=precision, progress=watched(progress),
        )  # fmt: skip
    return ClassificationResult(**{f.name: getattr(result, f.name) for f in fields(result)}, images=tuple(files))


def _refuse(given: dict[str, Any], what: str, but: Sequence[str] = ()) -> None:
    """Raise UsageError for what was given and has no say here."""
    if others := [name for name, value in given.items() if value is not None and name not in but]:
        raise UsageError(what, ", ".join(others), "a Dataset is scored as it is, a task by name as it says itself")


def _tasks(tasks: Any) -> list[Any]:
    """Return the tasks by their names and folders; those that were opened already stay."""
    from soupkit.evaluation.task import Task

    many = isinstance(tasks, Iterable) and not isinstance(tasks, str | os.PathLike | Mapping)
    listed = list(tasks) if many else [tasks]
    return [task if isinstance(task, Task) else reference(task, "tasks") for task in listed]


def _is_module(models: Any) -> "TypeGuard[nn.Module]":
    return hasattr(models, "state_dict") and hasattr(models, "parameters")


def _is_dataset(tasks: Any) -> "TypeGuard[PictureData]":
    """Whether `tasks` are pictures with labels: what has items by number, or a list of pairs."""
    if isinstance(tasks, list | tuple):
        return bool(tasks) and isinstance(tasks[0], tuple)
    if isinstance(tasks, str | os.PathLike | Mapping) or not hasattr(tasks, "__getitem__"):
        return False
    if not hasattr(tasks, "__len__"):
        raise UsageError(
            "has no length", f"tasks: {type(tasks).__name__}", "give a map-style Dataset, or a list of pairs"
        )
    return True


def _live_models(
    models: Checkpoints,
    preprocess: "str | Path | Callable[[Any], Tensor] | None",
    tokenizer: "Callable[[list[str]], Tensor] | None",
    model: str | None,
    device: str | None,
) -> "list[LiveModel]":
    """Return what is scored on a Dataset. Raises UsageError for what only a module, or only a reference, has."""
    from soupkit.evaluation.live import LiveModel, open_live_model

    listed = checkpoint_list(models, "models")
    modules = [one for one in listed if _is_module(one)]
    if modules and isinstance(preprocess, str | os.PathLike):
        raise UsageError("is a path", "preprocess", "a module needs the function that open_clip gives with it")
    if modules and device is not None:
        raise UsageError("is that of the module", "device", "move the module: model.to(device)")
    if len(modules) < len(listed) and (callable(preprocess) or tokenizer is not None):
        raise UsageError("belong to a module", "preprocess and tokenizer", "a checkpoint names its own")
    found = []
    for i, one in enumerate(listed):
        if _is_module(one):
            name = type(one).__name__ if len(listed) == 1 else f"{type(one).__name__}-{i + 1}"
            found.append(
                LiveModel(one, None if isinstance(preprocess, str | os.PathLike) else preprocess, tokenizer, name)
            )
        else:
            file = None if callable(preprocess) else path(preprocess)
            with checkpoints([one], "models") as (ref,):
                found.append(open_live_model(ref, model=model, preprocess=file, device=device or "auto"))
    return found


def _evaluate_live(
    models: "Sequence[LiveModel]",
    data: "PictureData",
    *,
    classnames: Sequence[str] | None,
    templates: Sequence[str] | None,
    name: str,
    batch_size: int | None,
    per_class: bool,
    progress: Progress,
) -> EvaluationResult:
    import time

    from soupkit.evaluation.live import TEMPLATES, class_names, paired, score_live
    from soupkit.evaluation.outcomes import class_counts
    from soupkit.evaluation.task import ClassHits

    if isinstance(classnames, str):
        raise UsageError("is one text", "classnames", "give a list with a name for each label")
    started = time.perf_counter()
    scored = [
        score_live(
            model, data, classnames=classnames, templates=templates or TEMPLATES, task=name, batch_size=batch_size,
            progress=progress,
        )
        for model in models
    ]  # fmt: skip
    names = class_names(data, classnames)
    classes = [
        ClassHits(s.ref, s.task, s.split, names, *counts)
        for s, hits in scored
        if (counts := class_counts(hits, len(names)))
    ]
    return EvaluationResult(
        tuple(s for s, _ in scored),
        paired(scored),
        time.perf_counter() - started,
        {},
        classes=tuple(classes) if per_class else (),
    )
