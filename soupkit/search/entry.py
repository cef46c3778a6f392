"""A search's entry in a recipe: the options of `soupkit greedy-search`, in the same words."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from soupkit.schema import Entry
from soupkit.search.options import SearchOptions


class SearchEntry(Entry):
    """One search. `search` is the strategy; `task` and `report_task` are one task or a list of them."""

    ingredients: list[str]
    search: Literal["greedy", "backward", "swap", "weights", "experts"] = "greedy"
    task: list[str]
    report_task: list[str] = Field(default_factory=list)
    orders: int = Field(1, ge=1)
    stopping: Literal["exact", "none", "sequential"] = "exact"
    error_rate: float = Field(0.05, gt=0, lt=1)
    accept: Literal["ge", "gt"] = "ge"
    seed: int = 0
    keep_going: bool = False
    budget: int = Field(100, ge=1)
    block: list[str] = Field(default_factory=list)
    correlation: float = Field(0.5, ge=-1, le=1)
    limit: int | None = Field(None, ge=1)
    data_root: Path | None = None

    def options(self) -> SearchOptions:
        """Return what decides how to search."""
        return SearchOptions(
            strategy=self.search,
            orders=self.orders,
            stopping=self.stopping,
            error_rate=self.error_rate,
            accept=self.accept,
            seed=self.seed,
            keep_going=self.keep_going,
            budget=self.budget,
            blocks=tuple(self.block),
            correlation=self.correlation,
        )

    @field_validator("task", "report_task", "block", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value
