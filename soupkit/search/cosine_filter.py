"""Ingredients left out by their weights alone: those whose task vectors point elsewhere than most others'."""

from collections.abc import Sequence

import numpy as np

from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.lineage import compare_weights


def median_cosines(checkpoints: Sequence[Checkpoint], base: Checkpoint) -> np.ndarray:
    """Return for each of `checkpoints` the median cosine of its task vector (it minus the base) with each of the
    others', float64 [n]; of a sample of the weights.

    A pair's cosine is the mean over the towers that both have changed; where there is none, as for one that equals the
    base, it is 0. The median, because one that went astray would lower everybody's mean.
    """
    n = len(checkpoints)
    totals, towers = np.zeros((n, n)), np.zeros((n, n))
    for pair in compare_weights(checkpoints, base, sample=True):
        if pair.task_cosine is not None:
            totals[pair.first, pair.second] += pair.task_cosine
            towers[pair.first, pair.second] += 1
    cosines = (totals + totals.T) / np.maximum(towers + towers.T, 1)
    others = cosines[~np.eye(n, dtype=bool)].reshape(n, n - 1)
    return np.median(others, axis=1)
