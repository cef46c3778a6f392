"""The metric that selects, where it is not the tasks' main one."""

from collections.abc import Sequence
from dataclasses import replace

from soupkit.errors import UsageError
from soupkit.evaluation.metrics import METRICS
from soupkit.evaluation.task import Task


def select_by(tasks: Sequence[Task], name: str | None) -> list[Task]:
    """Return `tasks` with the metric `name` as their main one, or beside it where it is no fraction; as they are
    without a name.

    Raises UsageError for a name that is in no table, for a metric of another kind of task, and for one that no soup is
    chosen by, such as the temperature.
    """
    if name is None:
        return list(tasks)
    try:
        metric = METRICS.find(name)
    except UsageError as error:
        raise UsageError(error.what, "--metric", error.hint) from error
    if not (metric.main or metric.minimized):
        raise UsageError("says nothing of how good a model is", f"--metric {name}", "select by nll, brier or ece")
    for task in tasks:
        if task.kind != metric.kind:
            hint = f"choose a metric of {task.kind}, or tasks of {metric.kind}"
            raise UsageError(f"is of {metric.kind}, and {task.name} is a task of {task.kind}", f"--metric {name}", hint)
    if metric.main:
        return [replace(task, metric=name) for task in tasks]
    return [replace(task, also=tuple(dict.fromkeys([*task.also, name]))) for task in tasks]
