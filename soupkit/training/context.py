"""What all parts of one run share, fixed before its first step."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic_core import to_jsonable_python

from soupkit.checkpoint.run_record import RunRecord
from soupkit.progress import Progress
from soupkit.ranks import Ranks
from soupkit.schema import Entry
from soupkit.training.cpu_share import Cores
from soupkit.training.entry import NOT_IDENTITY, DataEntry, TrainEntry
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


_BY_FINGERPRINT = ("init", "model", "preprocess")  # the parent and its config stand for them


def identity_of(entry: TrainEntry, start: Start) -> dict[str, Any]:
    """Return what decides the weights: the entry without what is NOT_IDENTITY, and the parent by its fingerprint."""
    fields = entry.model_dump(mode="json", exclude={*NOT_IDENTITY, *_BY_FINGERPRINT})
    return {**fields, "parent": start.fingerprint, "config": start.config}


def recorded_identity(record: RunRecord) -> dict[str, Any]:
    """Return the identity of a run that was begun; a setting that its version did not know, of the run or of its data,
    has the default, with which nothing is other than it was."""
    if not record.identity:
        return {}
    whole = _completed(record.identity, TrainEntry, without=(*NOT_IDENTITY, *_BY_FINGERPRINT))
    sources = whole["data"] if isinstance(whole.get("data"), list) else []
    return {**whole, "data": [_completed(one, DataEntry) if isinstance(one, dict) else one for one in sources]}


def _completed(recorded: dict[str, Any], entry: type[Entry], without: Sequence[str] = ()) -> dict[str, Any]:
    """Return what was `recorded` of an entry, with the defaults of all other fields."""
    defaults = {
        name: to_jsonable_python(field.get_default(call_default_factory=True))
        for name, field in entry.model_fields.items()
        if name not in (*recorded, *without) and not field.is_required()
    }
    return {**defaults, **recorded}
