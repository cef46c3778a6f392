"""What one model did on one task, image by image, and the score that follows from it."""

from dataclasses import dataclass

import numpy as np

from soupkit.evaluation.metrics import mean_average_precision, mean_per_class_recall, mean_recall, wilson
from soupkit.evaluation.task import Score, Task

RECALLS = (1, 5, 10)


@dataclass(frozen=True, slots=True)
class Hits:
    """Classification: whether the right class came first, and among the first five; bool [N] each.

    `top5` is None where there are fewer than five classes. `labels` is int64 [N].
    """

    top1: np.ndarray
    top5: np.ndarray | None
    labels: np.ndarray


@dataclass(frozen=True, slots=True)
class Ranking:
    """Multi-label: `scores` float32 [N, classes], cosines; `labels` bool [N, classes]."""

    scores: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Retrieval: for k of 1, 5 and 10, whether a caption's image is among the k nearest (`caption_hits` [captions, 3])
    and whether one of an image's captions is (`image_hits` [images, 3]); `image_of_caption` is int64 [captions]."""

    caption_hits: np.ndarray
    image_hits: np.ndarray
    image_of_caption: np.ndarray


Outcome = Hits | Ranking | Retrieval


def score_of(outcome: Outcome, task: Task, ref: str, fingerprint: str | None) -> Score:
    """Return the score of `outcome`, with the task's main metric as its value."""
    metrics: dict[str, float | None]
    intervals: dict[str, tuple[float, float]]
    if isinstance(outcome, Hits):
        n, count = len(outcome.top1), int(outcome.top1.sum())
        top5 = None if outcome.top5 is None else float(outcome.top5.mean())
        recall, spread = mean_per_class_recall(outcome.top1, outcome.labels)
        metrics = {"acc1": count / n, "acc5": top5, "mean_per_class_recall": recall}
        intervals = {"acc1": wilson(count, n), "mean_per_class_recall": spread}
    elif isinstance(outcome, Ranking):
        n = len(outcome.labels)
        value, spread = mean_average_precision(outcome.scores, outcome.labels)
        metrics, intervals = {"mean_average_precision": value}, {"mean_average_precision": spread}
    else:
        n = len(outcome.image_hits)
        metrics = {}
        for i, k in enumerate(RECALLS):
            metrics[f"image_retrieval_recall@{k}"] = float(outcome.caption_hits[:, i].mean())
            metrics[f"text_retrieval_recall@{k}"] = float(outcome.image_hits[:, i].mean())
        value, spread = mean_recall(outcome.image_of_caption, outcome.caption_hits[:, 0], outcome.image_hits[:, 0])
        metrics["mean_recall@1"], intervals = value, {"mean_recall@1": spread}
    main = metrics[task.metric]
    assert main is not None
    return Score(ref, fingerprint, task.name, task.split, task.metric, main, n, *intervals[task.metric], metrics)
