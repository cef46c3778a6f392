"""Which output of a classifier's head each class of the training data trains: found by name, whatever the order."""

from collections.abc import Sequence

from soupkit.checkpoint.architecture import CLASS_NAMES, Config
from soupkit.evaluation.head_labels import LabelMap, map_labels
from soupkit.evaluation.task import Task


def output_map(config: Config, task: Task, where: object) -> LabelMap:
    """Return which outputs of the head of `config` stand for the classes of `task`, and how that is known.

    Raises DataError for a class that the head does not have, which `where` says is asked for.
    """
    names = config[CLASS_NAMES]
    return map_labels({"labels": names, "outputs": len(names)}, task, where)


def outputs_of(config: Config, tasks: Sequence[Task | None]) -> tuple[tuple[int, ...], ...]:
    """Return for each of `tasks` the output of each class."""
    return tuple(output_map(config, task, "the head").outputs for task in tasks if task is not None)
