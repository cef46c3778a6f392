"""The shapes of the documents that are drawn: scores, searches and interpolations, checked before they are used."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from soupkit.errors import DataError
from soupkit.evaluation.task import Score

Fraction = Annotated[FiniteFloat, Field(ge=0, le=1)]


class Shape(BaseModel):
    """What is read of a document; keys beyond these are for others."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class ScoreRow(Shape):
    """One model on one task; fractions. Published tables give neither `n` nor the interval."""

    ref: str
    task: str
    split: str = ""
    metric: str = ""
    value: Fraction
    n: int | None = None
    low: Fraction | None = None
    high: Fraction | None = None

    @classmethod
    def of(cls, score: Score) -> "ScoreRow":
        """Return what is shown of a score that soupkit measured."""
        return cls.model_construct(
            ref=score.ref,
            task=score.task,
            split=score.split,
            metric=score.metric,
            value=score.value,
            n=score.n,
            low=score.low,
            high=score.high,
        )

    @property
    def task_name(self) -> str:
        """The task with its split, as one name."""
        return f"{self.task}:{self.split}" if self.split else self.task


class DecisionShape(Shape):
    """One trial of a search. `value` is None where it was decided before all images were scored; `hits` are those on
    the `images` that were seen until then."""

    n: int
    action: str = ""
    ref: str | None = None
    soup: list[str] = []
    value: Fraction | None = None
    low: Fraction | None = None
    high: Fraction | None = None
    hits: int | None = None
    images_scored: int | None = None
    images: int | None = None
    decision: Literal["accepted", "rejected"]

    @property
    def shown(self) -> float | None:
        """The score, or what the images that were scored say of it; None where no image was scored."""
        if self.value is not None:
            return self.value
        if self.hits is not None and self.images:
            return self.hits / self.images
        return None


class SearchShape(Shape):
    """A search, from its first trial to the soup that it chose."""

    strategy: str
    ingredients: Annotated[list[ScoreRow], Field(min_length=1)]
    decisions: Annotated[list[DecisionShape], Field(min_length=1)]
    selected: list[str]
    score: ScoreRow
    best_ingredient: ScoreRow
    uniform: ScoreRow | None = None
    images_scored: int | None = None
    images_full: int | None = None
    report: list[ScoreRow] = []
    optimistic: bool = False
    why: str | None = None


class PointShape(Shape):
    """The scores at one point between base and soup."""

    alpha: FiniteFloat
    scores: Annotated[list[ScoreRow], Field(min_length=1)]


class InterpolationShape(Shape):
    """Scores along the line from a base (alpha 0) to a model or the mean of several (alpha 1)."""

    base: str
    refs: list[str] = []
    points: Annotated[list[PointShape], Field(min_length=1)]
    best_alpha: FiniteFloat | None = None
    task: str | None = None


AnyShape = TypeVar("AnyShape", bound=Shape)


def parse(shape: type[AnyShape], data: Mapping[str, Any] | AnyShape, where: object) -> AnyShape:
    """Return `data` as a `shape`. Raises DataError that names the first field that is missing or wrong."""
    if isinstance(data, shape):
        return data
    try:
        return shape.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        hint = "scores are fractions, not percent" if first["type"] == "less_than_equal" else ""
        raise DataError(f"{field}: {first['msg'].lower()}", where, hint) from error
