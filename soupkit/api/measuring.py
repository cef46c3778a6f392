"""Functions that measure: compare, evaluate, classify."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from soupkit.api.arguments import Ref, Refs, optional_references, path, references, watched
from soupkit.api.making import evaluation_options
from soupkit.api.results import ClassificationResult, ComparisonResult, EvaluationResult
from soupkit.api.shown import shown_as
from soupkit.errors import UsageError
from soupkit.evaluation import EvaluationOptions
from soupkit.progress import Progress


def compare(
    refs: Refs,
    *,
    weights: bool = False,
    base: Ref | None = None,
    model: str | None = None,
    preprocess: str | Path | None = None,
    progress: bool | Progress = False,
) -> ComparisonResult:
    """Say whether checkpoints can be averaged, and with `weights` how far apart they are.

    >>> soupkit.compare(["runs/a", "runs/b"]).mergeable
    True
    """
    from soupkit.checkpoint import compare as run

    result = run(
        references(refs, "refs"), weights=weights, base=base, model=model, preprocess=path(preprocess),
        progress=watched(progress),
    )  # fmt: skip
    return shown_as(ComparisonResult, result)


def evaluate(
    models: Any,
    tasks: Any,
    *,
    data_root: str | Path | None = None,
    model: str | None = None,
    preprocess: Any = None,
    calibration: bool = False,
    classnames: Sequence[str] | None = None,
    templates: Sequence[str] | None = None,
    tokenizer: Callable[[list[str]], Any] | None = None,
    name: str = "dataset",
    evaluation: EvaluationOptions | None = None,
    progress: bool | Progress = False,
    **options: Any,
) -> EvaluationResult:
    """Score models on tasks.

    `models` are references, one or many, or an nn.Module; `tasks` are tasks by name or folder, one or many, or a torch
    Dataset of (picture, label). `options` are the fields of `EvaluationOptions` (device, limit, cache, ...).

    A module, and any model on a Dataset, is scored where it is: zero-shot by `encode_image` and `encode_text`, or as a
    classifier that returns logits. Then `preprocess` makes a tensor of a PIL image, `classnames` are one for each
    label (the dataset's `classes` unless given), `templates` hold `{c}`, and `name` is what the data are called.

    >>> result = soupkit.evaluate("runs/a", "digits", limit=20)
    >>> result.scores[0].n
    20
    >>> soupkit.evaluate(live_model, pictures, preprocess=to_tensor, classnames=["dark", "light"]).scores[0].task
    'dataset'
    """
    if _is_dataset(tasks) or _is_module(models):
        return _evaluate_live(
            models, tasks, model=model, preprocess=preprocess, classnames=classnames, templates=templates,
            tokenizer=tokenizer, name=name, progress=watched(progress), options=options,
        )  # fmt: skip
    given = {"classnames": classnames, "templates": templates, "tokenizer": tokenizer}
    if others := [key for key, value in given.items() if value is not None]:
        raise UsageError("belongs to a Dataset", ", ".join(others), "a task's folder holds its own")
    from soupkit.evaluation import evaluate as run

    result = run(
        references(models, "models"), _tasks(tasks), data_root=path(data_root), model=model,
        preprocess=path(preprocess), calibration=calibration, options=evaluation_options(evaluation, options),
        progress=watched(progress),
    )  # fmt: skip
    return shown_as(EvaluationResult, result)


def classify(
    model: Ref,
    images: Refs,
    labels: str | Sequence[str],
    *,
    device: str = "auto",
    precision: str | None = None,
    progress: bool | Progress = False,
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
    result = label_images(
        str(model), [Path(file) for file in files], words, device=device, precision=precision,
        progress=watched(progress),
    )  # fmt: skip
    return ClassificationResult(**{f.name: getattr(result, f.name) for f in fields(result)}, images=tuple(files))


def _tasks(tasks: Any) -> list[Any]:
    """Return the tasks by their names and folders; those that were opened already stay."""
    from soupkit.evaluation.task import Task

    listed = list(tasks) if isinstance(tasks, list | tuple) else [tasks]
    return [task if isinstance(task, Task) else optional_references(task, "tasks")[0] for task in listed]


def _is_module(models: Any) -> bool:
    return hasattr(models, "state_dict") and hasattr(models, "parameters")


def _is_dataset(tasks: Any) -> bool:
    return hasattr(tasks, "__getitem__") and hasattr(tasks, "__len__") and not isinstance(tasks, str | list | tuple)


def _evaluate_live(
    models: Any,
    tasks: Any,
    *,
    model: str | None,
    preprocess: Any,
    classnames: Sequence[str] | None,
    templates: Sequence[str] | None,
    tokenizer: Callable[[list[str]], Any] | None,
    name: str,
    progress: Progress,
    options: dict[str, Any],
) -> EvaluationResult:
    import time

    from soupkit.evaluation.live import TEMPLATES, LiveModel, open_live_model, score_live

    if not _is_dataset(tasks):
        raise UsageError(
            "is no Dataset, and a module in memory is scored on one", "tasks", "save the module, or give a Dataset"
        )
    started = time.perf_counter()
    batch_size, device = options.pop("batch_size", 64), options.pop("device", "auto")
    if options:
        raise UsageError("belongs to tasks by name", ", ".join(options), "a Dataset is scored as it is")
    if _is_module(models):
        live = [LiveModel(models, preprocess, tokenizer, type(models).__name__)]
    else:
        refs = references(models, "models")
        live = [open_live_model(ref, model=model, preprocess=path(preprocess), device=device) for ref in refs]
    scores = [
        score_live(
            one, tasks, classnames=classnames, templates=templates or TEMPLATES, task=name, batch_size=batch_size,
            progress=progress,
        )
        for one in live
    ]  # fmt: skip
    return EvaluationResult(tuple(scores), (), time.perf_counter() - started, {})
