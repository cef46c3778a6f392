"""What one model did on one task, image by image, and the score that follows from it."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from soupkit.errors import DataError
from soupkit.evaluation.metrics import reported_metrics
from soupkit.evaluation.task import MAIN_METRIC, Score, Task

RECALLS = (1, 5, 10)


class Outcome(Protocol):
    """What the metrics of one kind of task are computed from."""

    @property
    def n(self) -> int:
        """How many images it counts."""

    def has(self, what: str) -> bool:
        """Whether it holds `what` a metric needs."""


@dataclass(frozen=True, slots=True)
class Chances:
    """The probabilities of a classification, for each image: that of the class that came first (`confidence`), the
    logarithm of that of its own class, the summed squared errors of all, and their entropy in nats; float64 [N] each.

    `temperature` fits them best, None where none does or nobody asked for it; `fitted_confidence`, `fitted_log_truth`
    and `fitted_squares` are those of each half of the images at the temperature of the other.
    """

    confidence: np.ndarray
    log_truth: np.ndarray
    squares: np.ndarray
    entropy: np.ndarray
    temperature: float | None
    fitted_confidence: np.ndarray | None
    fitted_log_truth: np.ndarray | None
    fitted_squares: np.ndarray | None


@dataclass(frozen=True, slots=True)
class Hits:
    """Classification: whether the right class came first, and among the first five; bool [N] each.

    `top5` is None where there are fewer than five classes. `labels` is int64 [N]. The rest is None where nobody asked
    for it: `predicted` int64 [N] is the class that came first, `groups` int64 [N] the group that an image is counted
    in, `logits` float32 [N, classes] what is yet to be scaled, and `chances` the probabilities that follow;
    `margins` float32 [N] are how far the logit of the class that came first, where it is the right one, lies above the
    next, or else above that of the right one.
    """

    top1: np.ndarray
    top5: np.ndarray | None
    labels: np.ndarray
    predicted: np.ndarray | None = None
    groups: np.ndarray | None = None
    logits: np.ndarray | None = None
    chances: Chances | None = None
    margins: np.ndarray | None = None

    @property
    def n(self) -> int:
        """How many images there are."""
        return len(self.top1)

    def has(self, what: str) -> bool:
        """Whether it holds `what` a metric needs, the name of a field."""
        return getattr(self, what) is not None


@dataclass(frozen=True, slots=True)
class Ranking:
    """Multi-label: `scores` float32 [N, classes], cosines; `labels` bool [N, classes]."""

    scores: np.ndarray
    labels: np.ndarray

    @property
    def n(self) -> int:
        """How many images there are."""
        return len(self.labels)

    def has(self, what: str) -> bool:
        """Whether it holds `what` a metric needs, the name of a field."""
        return getattr(self, what) is not None


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Retrieval: for k of 1, 5 and 10, whether a caption's image is among the k nearest (`caption_hits` [captions, 3])
    and whether one of an image's captions is (`image_hits` [images, 3]); `image_of_caption` is int64 [captions]."""

    caption_hits: np.ndarray
    image_hits: np.ndarray
    image_of_caption: np.ndarray

    @property
    def n(self) -> int:
        """How many images there are."""
        return len(self.image_hits)

    def has(self, what: str) -> bool:
        """Whether it holds `what` a metric needs, the name of a field."""
        return getattr(self, what) is not None


@dataclass(frozen=True, slots=True)
class Associations:
    """Games of associations: how many candidates each has, int64 [games], and how well the chosen ones agree with the
    right ones, float64 [games]: the size of the intersection over that of the union (Jaccard)."""

    candidates: np.ndarray
    jaccard: np.ndarray

    @property
    def n(self) -> int:
        """How many games there are."""
        return len(self.jaccard)

    def has(self, what: str) -> bool:
        """Whether it holds `what` a metric needs, the name of a field."""
        return getattr(self, what) is not None


def hits_of(outcome: Outcome) -> np.ndarray | None:
    """Return which images a model got right, bool [N], for paired tests; None where that is no property of an image."""
    return outcome.top1 if isinstance(outcome, Hits) else None


def class_counts(outcome: Outcome, classes: int) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Return how many images of each class there are, and how many of them are right; None where no class is meant."""
    if not isinstance(outcome, Hits):
        return None
    images, right = (
        np.bincount(labels, minlength=classes) for labels in (outcome.labels, outcome.labels[outcome.top1])
    )
    return tuple(images.tolist()), tuple(right.tolist())


def score_of(outcome: Outcome, task: Task, ref: str, fingerprint: str | None) -> Score:
    """Return the score of `outcome`, with the task's main metric as its value.

    Raises DataError where the main metric does not exist for these data, such as the top-5 accuracy of four classes.
    """
    estimates = {
        metric.name: metric.compute(outcome) for metric in reported_metrics(task) if all(map(outcome.has, metric.needs))
    }
    main = estimates.get(task.metric)
    if main is None or main.low is None or main.high is None:
        raise DataError(
            f"has no {task.metric}, its main metric, on these data",
            f"{task.name}:{task.split}",
            f"name another in {MAIN_METRIC}",
        )
    metrics = {name: None if estimate is None else estimate.value for name, estimate in estimates.items()}
    return Score(
        ref, fingerprint, task.name, task.split, task.metric, main.value, outcome.n, main.low, main.high, metrics
    )
