"""Scores that are weighted sums of hits, in exact integers, so that ties are ties and certainty is certain.

Accuracy over n images is the sum of hits / n; the mean over classes of their recall is the sum of hits / (n_c C) with
n_c images in the hit's class of C classes; a mean over T tasks divides both by T. Over the least common multiple of
those denominators every image is worth a whole number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm

import numpy as np

from soupkit.evaluation.metrics import METRICS
from soupkit.evaluation.task import Task


def is_sum_of_hits(task: Task) -> bool:
    """Whether the main metric of `task` is a weighted sum of hits."""
    return METRICS[task.metric].sums_hits


@dataclass(frozen=True, slots=True)
class HitMetric:
    """What each image is worth. `kinds` int64 [N]: which of `units` an image counts; scores are in 1 / `scale`."""

    kinds: np.ndarray
    units: tuple[int, ...]
    scale: int

    def worth(self, images: np.ndarray) -> int:
        """Return what `images` (int64 or bool [N]) are worth together."""
        counts = np.bincount(self.kinds[images], minlength=len(self.units))
        return sum(int(c) * u for c, u in zip(counts, self.units, strict=True))

    @property
    def weights(self) -> np.ndarray:
        """What each image is worth, float64 [N], relative to the dearest."""
        dearest = max(self.units)
        return np.array([u / dearest for u in self.units])[self.kinds]


def hit_metric(metrics: Sequence[str], labels: Sequence[np.ndarray]) -> HitMetric:
    """Return the mean over tasks of their `metrics`, names of sums of hits, from the images' `labels` (int64 [n])."""
    denominators = []
    for metric, classes in zip(metrics, labels, strict=True):
        row = METRICS[metric]
        assert row.hit_denominators is not None
        denominators.append(row.hit_denominators(classes))
    every = np.concatenate(denominators) * len(metrics)
    distinct, kinds = np.unique(every, return_inverse=True)
    scale = lcm(*map(int, distinct))
    return HitMetric(kinds.astype(np.int64), tuple(scale // int(d) for d in distinct), scale)
