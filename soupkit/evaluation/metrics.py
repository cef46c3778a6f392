"""The table of metrics: what a score can be. Tasks, cards of models, the search and the cache of scores read it.

A row of another package has its entry point in the group `soupkit.metrics`, or is added by `METRICS.add`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from soupkit.evaluation.task import Task
from soupkit.extensions import Table


@dataclass(frozen=True, slots=True)
class Estimate:
    """The value of a metric and, where it can be a task's main one, its 95 % interval."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Metric:
    """A number that says how good a model is on tasks of one `kind`.

    One that may be a task's `main` metric is a fraction, the higher the better, and has an interval.

    `compute` takes the kind's outcome (`soupkit.evaluation.outcomes`: Hits of classification, Ranking of multilabel,
    Retrieval, Associations) and returns None where the metric does not exist, such as the top-5 accuracy of four
    classes.
    `hub_name` is what the Hugging Face Hub calls it in a model's card (empty: the same). A metric that is `standard`
    is reported for every task of its kind, any other where it is a task's main one. `version` is raised when the
    arithmetic changes: scores of another version are not taken from the cache.

    `needs` names fields of an outcome that are made only where a metric asks for them, such as "groups".

    `hit_denominators` makes it a sum of hits, each of which is worth one over a whole number: it takes the classes of
    the images, int64 [N], and returns those numbers, int64 [N]. A search over such a metric ends a trial as soon as
    the images that are left cannot change its outcome; over any other it scores every image.

    A search may also select by a metric that is `minimized`: any number, the lower the better.

    >>> METRICS["acc1"].kind, METRICS["acc1"].sums_hits, METRICS["acc1"].hub_name
    ('classification', True, 'accuracy')
    """

    name: str
    kind: str
    compute: Callable[[Any], Estimate | None]
    summary: str
    hub_name: str = ""
    standard: bool = False
    main: bool = True
    hit_denominators: Callable[[np.ndarray], np.ndarray] | None = None
    needs: tuple[str, ...] = ()
    version: int = 1
    minimized: bool = False

    @property
    def sums_hits(self) -> bool:
        """Whether its value is the sum of what each hit is worth."""
        return self.hit_denominators is not None


METRICS = Table(
    "metric",
    Metric,
    group="soupkit.metrics",
    option="main_metric.txt",
    modules=(
        "soupkit.evaluation.classification_metrics",
        "soupkit.evaluation.group_metrics",
        "soupkit.evaluation.calibration_metrics",
        "soupkit.evaluation.multilabel_metrics",
        "soupkit.evaluation.retrieval_metrics",
        "soupkit.evaluation.association_metrics",
    ),
)


def reported_metrics(task: Task) -> list[Metric]:
    """Return the metrics of `task`: the standard ones of its kind, its main one, and those that it names beside it."""
    named = {task.metric, *task.also}
    return [m for m in METRICS.values() if m.kind == task.kind and (m.standard or m.name in named)]


def needs(task: Task, what: str) -> bool:
    """Return whether a metric of `task` needs `what` of an outcome."""
    return any(what in metric.needs for metric in reported_metrics(task))
