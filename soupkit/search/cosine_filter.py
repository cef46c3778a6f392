"""Ingredients left out by their weights alone: those whose task vectors point elsewhere than the others'."""

from collections.abc import Sequence

import numpy as np

from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.lineage import compare_weights


def mean_cosines(checkpoints: Sequence[Checkpoint], base: Checkpoint) -> np.ndarray:
    """Return for each of `checkpoints` the mean cosine of its task vector (it minus the base) with the others', over
    the towers, float64 [n]; of a sample of the weights. One that equals the base has 0."""
    n = len(checkpoints)
    totals, counts = np.zeros(n), np.zeros(n)
    for pair in compare_weights(checkpoints, base, sample=True):
        if pair.first < n and pair.second < n:
            for i in (pair.first, pair.second):
                totals[i] += pair.task_cosine or 0.0
                counts[i] += 1
    return totals / np.maximum(counts, 1)
