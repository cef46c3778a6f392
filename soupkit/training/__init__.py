"""Data becomes an ingredient."""

from soupkit.training.entry import Run, TrainEntry, read_runs
from soupkit.training.trainer import NotFiniteError, TrainOptions, TrainResult, train

__all__ = ["NotFiniteError", "Run", "TrainEntry", "TrainOptions", "TrainResult", "read_runs", "train"]
