"""`search.json`: what a search found. The one type of it, for the search that writes it and for all who read it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from soupkit.errors import DataError
from soupkit.evaluation.task import Count
from soupkit.files import parse_json, read_text, write_whole

SEARCH_NAME = "search.json"
UNIFORM = "uniform"  # what the uniform soup of all ingredients is called among scores


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)


class SearchScore(_Part):
    """What one model reached on one task, or on all that select.

    A fraction with its 95 % interval, unless `unit` is "number": then `value` is what a score of the user's own said.
    `metrics` are the others of the task, or the values on each of several tasks.
    """

    ref: str
    fingerprint: str | None = None
    task: str
    split: str = ""
    metric: str = ""
    value: FiniteFloat
    n: Count | None = None
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None
    metrics: dict[str, FiniteFloat | None] = Field(default_factory=dict)
    unit: Literal["fraction", "number"] = "fraction"

    @property
    def task_and_split(self) -> str:
        """The task with its split, as one name."""
        return f"{self.task}:{self.split}" if self.split else self.task

    @model_validator(mode="after")
    def _is_a_fraction(self) -> "SearchScore":
        if self.unit == "fraction" and not all(0 <= v <= 1 for v in (self.value, self.low, self.high) if v is not None):
            raise ValueError("scores are fractions, not percent")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError("its interval ends before it begins")
        return self


class Decision(_Part):
    """One trial.

    `soup` is what was tried, with its `weights` (None: uniform); `ref` is the ingredient it is about, None for a
    mixture; `value` is None where the trial ended early, after `images` images, of which `images_scored` were not known
    from an earlier trial; `hits` are those on all of them, or None. `method` and its `parameters` are those of a
    soup that is no weighted mean.
    """

    n: Count
    action: str = ""
    ref: str | None = None
    soup: tuple[str, ...] = ()
    weights: list[float] | dict[str, list[float]] | None = None
    value: FiniteFloat | None = None
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None
    hits: Count | None = None
    images_scored: Count | None = None
    images: Count | None = None
    decision: Literal["accepted", "rejected"]
    method: str | None = None
    parameters: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the trial as JSON holds it; a method is named where it is neither the mean nor a weighted one."""
        said = self.model_dump(mode="json")
        return said if self.method is not None else {k: v for k, v in said.items() if k not in ("method", "parameters")}

    @property
    def accepted(self) -> bool:
        """Whether the soup that was tried became the current one."""
        return self.decision == "accepted"

    @property
    def shown(self) -> float | None:
        """The score, or what the images that were scored say of it; None where nothing is known."""
        if self.value is not None:
            return self.value
        return self.hits / self.images if self.hits is not None and self.images else None


class Paired(_Part):
    """The soup and the best ingredient on the images that select: how many each alone gets right, and the p-value of
    McNemar's exact test, which is optimistic because these images chose the soup."""

    only_soup: Count
    only_best_ingredient: Count
    p: FiniteFloat


class TriedMethod(_Part):
    """The best that a merge method reached, with which parameters, in so many trials."""

    method: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    value: FiniteFloat
    trials: Count


class ProxyAgreement(_Part):
    """How well averaged logits on `images` images, `share` of all, guessed the scores of so many `soups`: Spearman's
    rank correlation, the mean of guess minus score, and the largest distance; None where no soup was scored whole.
    `pruned` soups were turned away on guesses alone."""

    share: float
    images: Count
    soups: Count
    pruned: Count = 0
    rank_correlation: FiniteFloat | None = None
    bias: FiniteFloat | None = None
    largest: FiniteFloat | None = None


class TaskGroup(_Part):
    """Tasks that belong together, and the ingredient that is best on them."""

    tasks: list[str]
    expert: str


class ShapleyShare(_Part):
    """What one member contributes to the soup's score."""

    ref: str
    share: FiniteFloat


class ShapleyShares(_Part):
    """The members' shares; `scored` of the `subsets` of members have a score of their own."""

    shares: list[ShapleyShare]
    subsets: Count
    scored: Count


class SearchDocument(_Part):
    """A search, from its first trial to the soup that it chose.

    `weights` are one per member, or those of each block of tensors. `images_full` are the images that a search with
    full passes takes; of a score of the user's own both count `answers`, as `counts` says. `minimized` is whether a low
    value is good. `facts` are what the strategy has to say beyond that, by name.

    >>> found = soupkit.search(["runs/a", "runs/b"], "soups/best", tasks="digits", limit=20)
    >>> found.document.score.value >= found.document.best_ingredient.value
    True
    """

    schema_version: int = Field(1, alias="schema")
    soupkit: str = ""
    strategy: str
    stopping: str = ""
    accept: str = ""
    ingredients: Annotated[tuple[SearchScore, ...], Field(min_length=1)]
    decisions: Annotated[tuple[Decision, ...], Field(min_length=1)]
    selected: tuple[str, ...]
    weights: list[FiniteFloat] | dict[str, list[FiniteFloat]] | None = None
    method: str | None = None
    parameters: dict[str, Any] | None = None
    base: str | None = None
    score: SearchScore
    best_ingredient: SearchScore
    uniform: SearchScore | None = None
    counts: str = "images"
    images_scored: Count | None = None
    images_full: Count | None = None
    paired: Paired | None = None
    optimistic: bool = False
    why: str | None = None
    notes: tuple[str, ...] = ()
    minimized: bool = False
    proxy: ProxyAgreement | None = None
    methods: tuple[TriedMethod, ...] | None = None
    groups: tuple[TaskGroup, ...] | None = None
    correlations: list[list[FiniteFloat]] | None = None
    shapley: ShapleyShares | None = None
    facts: dict[str, Any] = Field(default_factory=dict)
    report: tuple[SearchScore, ...] = ()
    settings: dict[str, Any] = Field(default_factory=dict)
    seconds: float | None = None

    @model_validator(mode="after")
    def _has_a_weight_for_each_member(self) -> "SearchDocument":
        each = self.weights.values() if isinstance(self.weights, dict) else [self.weights or self.selected]
        if any(len(weights) != len(self.selected) for weights in each):
            raise ValueError("weights are one for each of the selected")
        return self

    @property
    def scores(self) -> tuple[SearchScore, ...]:
        """Every score in it: the ingredients', the soup's, the uniform soup's, and those of the report."""
        return (*self.ingredients, self.score, *((self.uniform,) if self.uniform is not None else ()), *self.report)

    def to_dict(self) -> dict[str, Any]:
        """Return the document as JSON holds it; what only some searches say is left out where it is not said."""
        document = self.model_dump(mode="json", by_alias=True)
        for key in _SOMETIMES:
            if not document[key]:
                del document[key]
        document["decisions"] = [decision.to_dict() for decision in self.decisions]
        if self.counts == "images":
            del document["counts"]
        for score in [*document["ingredients"], *document["report"], *(document[k] for k in _SCORES if document[k])]:
            if score["unit"] == "fraction":
                del score["unit"]
        return document

    def write(self, directory: Path) -> None:
        """Write it into `directory`. Raises StorageError."""
        write_whole(directory / SEARCH_NAME, json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n")


_SOMETIMES = (
    "method", "parameters", "base", "paired", "minimized", "proxy", "methods", "groups", "correlations", "shapley",
    "facts",
)  # fmt: skip
_SCORES = ("score", "best_ingredient", "uniform")


def parse_search(data: Mapping[str, Any], where: object = SEARCH_NAME) -> SearchDocument:
    """Return `data`, the JSON of a `search.json` of this or an earlier version, as a document.

    Raises DataError that names the first field that is missing or wrong.
    """
    try:
        return SearchDocument.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        raise DataError(f"{field}: {said[:1].lower()}{said[1:]}", where, "`soupkit search` writes it") from error


def read_search(directory: Path) -> SearchDocument | None:
    """Return the document in `directory`; None where there is none. Raises DataError for one that is damaged."""
    path = directory / SEARCH_NAME
    try:
        text = read_text(path)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", path, "`soupkit search` writes it") from error
    try:
        data = parse_json(text)
    except ValueError as error:
        raise DataError(f"is not valid JSON: {error}", path, "`soupkit search` writes it") from error
    if not isinstance(data, dict):
        raise DataError("is not a JSON object", path, "`soupkit search` writes it")
    return parse_search(data, path)
