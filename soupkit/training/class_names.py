"""The classes of a classifier: which its head has, before anything of it is built."""

from typing import Any

from soupkit.checkpoint.architecture import CLASS_NAMES
from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.towers import CLASSIFICATION_HEAD, has_head
from soupkit.errors import ArchitectureError, DataError, UsageError
from soupkit.evaluation.tasks import open_tasks
from soupkit.training.data.class_outputs import output_map
from soupkit.training.data.sources import open_labelled
from soupkit.training.entry import TrainEntry


def with_classes(
    entry: TrainEntry, config: dict[str, Any], parent: Checkpoint
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return `config` with the names of the classes of a run's head in their order, and what is to be said of them.

    They are those of the parent's head where that goes on, else those of the first source of data. Every source, and
    every task that the run is scored on as it goes, has classes of these names.

    Raises ArchitectureError for a parent without the text tower that is asked for, DataError for classes that the head
    does not have, UsageError for a run that is to be scored on something else.
    """
    tasks = [open_labelled(source) for source in entry.data]
    names, notes = list(tasks[0].classnames), [note for task in tasks for note in task.notes]
    goes_on = has_head(parent.tensors) and entry.head is None
    if goes_on:
        names, said = _names_of_head(config, parent, names)
        notes += said
    _check_text(entry, parent)
    if len(names) < 2:
        raise DataError(f"has {len(names)} class", tasks[0].dataset.place, "a classifier tells two or more apart")
    config = {**config, CLASS_NAMES: names}
    where = f"the head of {parent.ref}" if goes_on else f"the head on the classes of {tasks[0].name}"
    for task in tasks:
        output_map(config, task, where)
    points = entry.evaluate
    for task in open_tasks(points.tasks, data_root=points.data_root) if points is not None else ():
        if task.kind != "classification":
            what = f"is a task of {task.kind}, and a classifier with a head has classes alone"
            raise UsageError(what, f"evaluate: {task.name}", "name tasks of classification")
        output_map(config, task, where)
    return config, tuple(notes)


def has_text(parent: Checkpoint) -> bool:
    """Whether a checkpoint, a CLIP or a classifier, holds the whole of a text tower."""
    return any(name.removeprefix("model.").startswith(("transformer.", "text.")) for name in parent.tensors)


def _check_text(entry: TrainEntry, parent: Checkpoint) -> None:
    begins_zero_shot = entry.head == "zero_shot" or (entry.head is None and not has_head(parent.tensors))
    for asked, what in ((begins_zero_shot, "a zero-shot head is made by"), (entry.keep_text, "keep_text keeps")):
        if asked and not has_text(parent):
            hint = "start from a CLIP, or from a classifier that was trained with keep_text"
            raise ArchitectureError(f"has no text tower, which {what}", parent.ref, hint)


def _names_of_head(config: dict[str, Any], parent: Checkpoint, of_data: list[str]) -> tuple[list[str], list[str]]:
    """Return what the outputs of the parent's head are called, and what is to be said of that: without names beside it
    they are taken to be the classes of the data, by position. Raises DataError where they are not as many."""
    own = (parent.config or {}).get(CLASS_NAMES)
    if isinstance(own, list):
        return own, []
    head = next(name for name in parent.tensors if name.endswith(CLASSIFICATION_HEAD))
    outputs = parent.tensors[head].shape[0]
    if outputs != len(of_data):
        what = f"has a head of {outputs} classes without names, and the data have {len(of_data)}"
        hint = f"write them into {CLASS_NAMES} of its open_clip_config.json, or begin another: head: zero_shot or probe"
        raise DataError(what, parent.ref, hint)
    said = f"{parent.ref}: its head has no names; by position, its {outputs} outputs are taken to be the data's classes"
    return of_data, [said]
