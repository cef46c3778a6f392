"""`training.json`, the record that a training run keeps beside its weights, and what else lies in its directory.

RUN/training.json     what decides the run, and once it is finished what came of it
RUN/ema/              the moving average of its weights: RUN@ema
RUN/samples=N/        its weights after N samples: RUN@samples=N

The record is written by training and read there and wherever a checkpoint's descent is asked for.
"""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from soupkit.errors import CheckpointError
from soupkit.files import parse_json, read_text, write_whole

RECORD_NAME = "training.json"
AVERAGE_DIRECTORY = "ema"
_SNAPSHOT = "samples="


def snapshot_directory(samples: int) -> str:
    """Return the name of the directory that holds a run's weights after `samples` samples."""
    return f"{_SNAPSHOT}{samples}"


class _Document(BaseModel):
    """A part of the record. Keys that are not declared are those of a later soupkit, and are left out."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class SourceRecord(_Document):
    """A source of training data: where it was, its number of samples, and its files by number, bytes and digest."""

    place: str
    samples: int
    files: int
    bytes: int
    digest: str


class ParentRecord(_Document):
    """The weights that a run started from."""

    ref: str
    fingerprint: str | None


class OutputRecord(_Document):
    """The final weights of a run."""

    fingerprint: str


class RunRecord(_Document):
    """A run that was begun. `identity` decides its weights; `machine` what their last bits depend on beside that.

    `data` and `machine` are None until the data have been opened for the first time.
    """

    schema_: int = Field(default=1, alias="schema", le=1)
    soupkit: str = ""
    identity: dict[str, Any] = Field(default_factory=dict)
    data: tuple[SourceRecord, ...] | None = None
    machine: dict[str, Any] | None = None

    def document(self) -> dict[str, Any]:
        """Return what the file holds."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class FinishedRun(RunRecord):
    """A run that has ended: its entry, its ancestors' fingerprints (parent first), and what came of it.

    `loss` is the last step's, None where it was not finite; `skipped` counts steps, `damaged` samples.
    """

    entry: dict[str, Any] = Field(default_factory=dict)
    parent: ParentRecord | None = None
    lineage: tuple[str, ...]
    samples: int = 0
    loss: float | None = None
    skipped: int = 0
    damaged: int = 0
    output: OutputRecord

    def document(self) -> dict[str, Any]:
        """Return what the file holds."""
        return self.model_dump(mode="json", by_alias=True)


def read_run(directory: Path) -> RunRecord | FinishedRun | None:
    """Return the record in `directory`, None where there is none. Raises CheckpointError for a file that is damaged, or
    that something else than soupkit has written."""
    path = directory / RECORD_NAME
    hint = "move it away if another program wrote it; else get it again"
    try:
        document = parse_json(read_text(path))
        return (FinishedRun if "output" in document else RunRecord).model_validate(document)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", path, hint) from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise CheckpointError(f"is no record of a training run: {field}: {first['msg']}"[:300], path, hint) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"is no record of a training run: {error}"[:300], path, hint) from error


def record_of(weights: Path) -> FinishedRun | None:
    """Return the record of the run that `weights` are of, a file or a directory: its final weights, their average or a
    snapshot. None where there is none, or none that can be read: weights whose descent is not recorded are as good as
    any others.
    """
    directory = weights.parent if weights.is_file() else weights
    part = directory.name == AVERAGE_DIRECTORY or directory.name.startswith(_SNAPSHOT)
    for run in (directory, directory.parent) if part else (directory,):
        try:
            record = read_run(run)
        except CheckpointError:
            continue
        if isinstance(record, FinishedRun):
            return record
    return None


def write_run(directory: Path, record: RunRecord) -> None:
    """Write `record`, whole or not at all. Raises StorageError."""
    # In ASCII: a config may hold half of a pair of surrogates, which JSON can say and UTF-8 cannot.
    write_whole(directory / RECORD_NAME, json.dumps(record.document(), indent=2, allow_nan=False) + "\n")
