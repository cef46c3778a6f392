"""What `soupkit train` leaves: an open_clip folder with `training.json`, and other weights of the run below it.

RUN@ema is the average of its weights, RUN@samples=2e9 the snapshot after so many samples.
"""

from pathlib import Path

from soupkit.checkpoint.formats.folder import Folder
from soupkit.checkpoint.formats.open_clip import COMPANIONS, describe, is_open_clip
from soupkit.checkpoint.formats.table import Family
from soupkit.checkpoint.formats.weight_files import TRAINING
from soupkit.errors import CheckpointError, UsageError

_AVERAGE = "ema"
_SNAPSHOT = "samples"


def is_training_run(folder: Folder) -> bool:
    """Whether the folder holds the weights of a run and its record."""
    return TRAINING in folder.names and is_open_clip(folder)


def part_of_run(run: Path, part: str) -> Path:
    """Return the directory of RUN@ema or RUN@samples=N.

    Raises UsageError for a number of samples that is none, CheckpointError for what the run has not kept.
    """
    key, equals, value = part.partition("=")
    if key == _SNAPSHOT and equals:
        try:
            part = f"{_SNAPSHOT}={int(float(value))}"
        except (ValueError, OverflowError):
            raise UsageError(
                f"asks for {value!r} samples, which is no number", f"{run}@{part}", "write it as RUN@samples=2e9"
            ) from None
    directory = run / part
    if (part == _AVERAGE or key == _SNAPSHOT) and directory.is_dir():
        return directory
    kept = [p.name for p in sorted(run.iterdir()) if p.name == _AVERAGE or p.name.startswith(f"{_SNAPSHOT}=")]
    hint = f"it has {', '.join(kept)}" if kept else "its entry asked for no ema and no snapshots"
    raise CheckpointError(f"the run has no {part!r}", run, hint)


TRAINING_RUN = Family(
    name="run",
    summary="a run of soupkit train; RUN@ema and RUN@samples=N name other weights of it",
    recognises=is_training_run,
    describe=describe,
    companions=(TRAINING, *COMPANIONS),
    part=part_of_run,
)
