"""Data becomes an ingredient: entries, data in a fixed order, the exact step, ranks, and runs that go on."""

from soupkit.training.entry import TrainEntry
from soupkit.training.loop import NotFiniteError
from soupkit.training.options import TrainOptions
from soupkit.training.runs import Run, parent_reference, read_runs, select_runs
from soupkit.training.trainer import TrainResult, train

__all__ = [
    "NotFiniteError",
    "Run",
    "TrainEntry",
    "TrainOptions",
    "TrainResult",
    "parent_reference",
    "read_runs",
    "select_runs",
    "train",
]
