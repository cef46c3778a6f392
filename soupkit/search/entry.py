"""A search's entry in a recipe: the options of `soupkit search`, in the same words."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, create_model, field_validator, model_validator

from soupkit.errors import UsageError
from soupkit.schema import Entry, refusal
from soupkit.search.custom_score import MODEL, CustomScore
from soupkit.search.options import SearchOptions
from soupkit.search.strategies.table import STRATEGIES, StrategyOption, own_options


class CommonEntry(Entry):
    """What an entry says with every strategy.

    `search` is the strategy; `task` and `report_task` are one task or a list of them; `score` is a command that selects
    instead of tasks, or beside them; `option` holds what strategies of other packages can be told.
    """

    ingredients: list[str]
    search: str = "greedy"
    task: list[str] = Field(default_factory=list)
    base: str | None = None
    score: str | None = None
    minimize: bool = False
    score_file: list[str] = Field(default_factory=list)
    score_timeout: float | None = Field(None, gt=0)
    score_retries: int = Field(1, ge=0)
    score_weight: float = Field(1.0, gt=0)
    score_key: str | None = None
    report_task: list[str] = Field(default_factory=list)
    stopping: Literal["exact", "none", "sequential", "likely"] | None = None
    error_rate: float = Field(0.05, gt=0, lt=1)
    accept: Literal["ge", "gt"] = "ge"
    seed: int = 0
    keep_going: bool = False
    least_cosine: float | None = Field(None, ge=-1, le=1)
    metric: str | None = None
    option: dict[str, Any] = Field(default_factory=dict)
    limit: int | None = Field(None, ge=1)
    data_root: Path | None = None

    def options(self) -> SearchOptions:
        """Return what decides how to search."""
        keys = {option.key: option.name for option, _ in own_options().values()}
        given = {name: getattr(self, key) for key, name in keys.items() if key in self.model_fields_set}
        return SearchOptions(
            self.search,
            stopping=self.stopping,
            error_rate=self.error_rate,
            accept=self.accept,
            seed=self.seed,
            keep_going=self.keep_going,
            least_cosine=self.least_cosine,
            metric=self.metric,
            **{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()},
            **self.option,
        )

    def custom_score(self) -> CustomScore | None:
        """Return the score of the user's own, None where tasks alone select."""
        if self.score is None:
            return None
        files = tuple(Path(path) for path in self.score_file)
        return CustomScore(
            self.score,
            self.minimize,
            files,
            self.score_timeout,
            self.score_retries,
            self.score_weight,
            key=self.score_key,
        )

    @field_validator("search")
    @classmethod
    def _is_in_the_table(cls, name: str) -> str:
        try:
            return STRATEGIES.find(name).name
        except UsageError as error:
            raise refusal(error) from error

    @model_validator(mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        lists = {
            "task",
            "report_task",
            "score_file",
            *(option.key for option, _ in own_options().values() if option.several),
        }
        return {k: [v] if k in lists and isinstance(v, str) else v for k, v in data.items()}

    @model_validator(mode="after")
    def _something_selects(self) -> "CommonEntry":
        if not self.task and self.score is None:
            raise refusal(UsageError("names neither a task nor a score to select on", "the search", "task: digits"))
        if self.score is not None and MODEL not in self.score:
            raise refusal(
                UsageError("score does not say where {model} goes", "the search", "score: python evaluate.py {model}")
            )
        return self

    @model_validator(mode="after")
    def _the_strategy_takes_its_options(self) -> "CommonEntry":
        try:
            self.options().check()
        except UsageError as error:
            key = error.where.removeprefix("--")
            named = (key,) if key in self.model_fields_set else ()
            raise refusal(UsageError(error.sentence, error.where, error.hint), named) from error
        return self


def _field(option: StrategyOption) -> Any:
    """Return the type and the default of the key of a strategy's own option, for pydantic."""
    kind: Any = Literal[option.choices] if option.choices else option.kind
    default = list(option.default) if option.several else option.default
    bounds: dict[str, Any] = {} if option.several else {"ge": option.low, "le": option.high}
    return list[kind] if option.several else kind, Field(default, description=option.help, **bounds)


if TYPE_CHECKING:

    class SearchEntry(CommonEntry):
        """One search, with the options of all of soupkit's own strategies as keys."""

else:
    SearchEntry = create_model(
        "SearchEntry", __base__=CommonEntry, **{o.key: _field(o) for o, _ in own_options().values()}
    )
