"""Weights of a run's snapshots that stand for a decay of its learning rate (WSM, Tian et al. 2025,
https://arxiv.org/abs/2507.17634): what a constant rate did between two of them counts as much as the curve has left."""

import re
from collections.abc import Callable
from math import cos, pi, sqrt
from pathlib import Path

from soupkit.checkpoint.run_record import FinishedRun, read_run, snapshot_directory
from soupkit.errors import UsageError
from soupkit.merging.entry import SoupEntry

# What is left of the rate after a share x of the decay. The linear one makes the plain mean.
CURVES: dict[str, Callable[[float], float]] = {
    "1-sqrt": lambda x: 1 - sqrt(x),
    "linear": lambda x: 1 - x,
    "cosine": lambda x: (1 + cos(pi * x)) / 2,
}


def decay_weights(curve: str, count: int) -> list[float]:
    """Return the weights of `count` snapshots in the order of training; they sum to 1.

    With w_j the curve after j of `count` equal parts: 1 - w_1 for the first, w_j - w_{j+1}, and w for the last.
    """
    left = [1.0, *(CURVES[curve](j / count) for j in range(1, count)), 0.0]
    return [left[j] - left[j + 1] for j in range(count)]


def snapshots(run: Path) -> list[str]:
    """Return the directories of a run's snapshots in the order of training, its final weights last.

    Raises UsageError for what is no finished run, or has no snapshot.
    """
    record = read_run(run)
    if not isinstance(record, FinishedRun):
        raise UsageError("is no finished run", run, "name the directory that `soupkit train` has written")
    pattern = re.compile(re.escape(snapshot_directory(0)).removesuffix("0") + r"(\d+)")
    samples = sorted(int(match[1]) for path in run.iterdir() if (match := pattern.fullmatch(path.name)))
    earlier = [n for n in samples if not record.samples or n < record.samples]
    if not earlier:
        raise UsageError("has no snapshots", run, "train it with snapshots: [...] in its entry")
    return [*(str(run / snapshot_directory(n)) for n in earlier), str(run)]


def expanded(soup: SoupEntry) -> SoupEntry:
    """Return the soup with the snapshots of its run as ingredients, where it names one. Raises UsageError."""
    if soup.run is None:
        return soup
    refs = snapshots(Path(soup.run))
    weights = decay_weights(soup.decay, len(refs))
    return soup.model_copy(update={"ingredients": refs, "weights": weights, "method": "linear", "run": None})
