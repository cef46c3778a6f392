"""An evaluation's entry in a recipe: the options of `soupkit evaluate`, in the same words."""

from pathlib import Path

from pydantic import Field

from soupkit.schema import Entry


class EvaluateEntry(Entry):
    """Which checkpoints are scored on which tasks."""

    refs: list[str] = Field(min_length=1)
    tasks: list[str] = Field(min_length=1)
    limit: int | None = Field(None, ge=1)
    data_root: Path | None = None
    calibration: bool = False
    per_class: bool = False
    pictures: int = Field(0, ge=0, le=100)
