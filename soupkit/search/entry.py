"""A search's entry in a recipe: the options of `soupkit greedy-search`, in the same words."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from soupkit.schema import Entry


class SearchEntry(Entry):
    """One search. `search` is the strategy; `task` and `report_task` are one task or a list of them."""

    ingredients: list[str]
    search: Literal["greedy", "backward", "swap"] = "greedy"
    task: list[str]
    report_task: list[str] = Field(default_factory=list)
    orders: int = Field(1, ge=1)
    stopping: Literal["exact", "none", "sequential"] = "exact"
    error_rate: float = Field(0.05, gt=0, lt=1)
    accept: Literal["ge", "gt"] = "ge"
    seed: int = 0
    keep_going: bool = False
    limit: int | None = Field(None, ge=1)
    data_root: Path | None = None

    @field_validator("task", "report_task", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value
