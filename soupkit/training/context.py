"""What all parts of one run share, fixed before its first step."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from soupkit.progress import Progress
from soupkit.ranks import Ranks
from soupkit.training.cpu_share import Cores
from soupkit.training.entry import NOT_IDENTITY, TrainEntry
from soupkit.training.model import Start
from soupkit.training.options import TrainOptions
from soupkit.training.signals import Stop


@dataclass(frozen=True, slots=True)
class RunContext:
    """One run: what is trained, from what, in which directory (`work`), by whom and on what, and who is told.

    `identity` is what decides the weights, as the run's record keeps it.
    """

    entry: TrainEntry
    start: Start
    identity: dict[str, Any]
    work: Path
    ranks: Ranks
    device: torch.device
    cores: Cores
    options: TrainOptions
    stop: Stop
    progress: Progress

    @property
    def samples(self) -> int:
        """The samples of the whole run."""
        return self.entry.steps * self.entry.batch_size


def identity_of(entry: TrainEntry, start: Start) -> dict[str, Any]:
    """Return what decides the weights: the entry without what is NOT_IDENTITY, and the parent by its fingerprint."""
    fields = entry.model_dump(mode="json", exclude=set(NOT_IDENTITY) | {"init", "model", "preprocess"})
    return {**fields, "parent": start.fingerprint, "config": start.config}
