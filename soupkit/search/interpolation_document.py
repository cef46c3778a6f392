"""`interpolation.json`: the curve between a base and its fine-tunes. The one type of it, for its writer and readers."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from soupkit.errors import DataError
from soupkit.search.document import SearchScore


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Point(_Part):
    """The scores at one place between the base (alpha 0) and the fine-tunes (alpha 1)."""

    alpha: FiniteFloat
    scores: Annotated[tuple[SearchScore, ...], Field(min_length=1)]


class InterpolationDocument(_Part):
    """The curve from `base` to the mean of `refs`, and the alpha that is best on `task`. `notes` say what was taken for
    granted."""

    base: str
    refs: tuple[str, ...] = ()
    points: Annotated[tuple[Point, ...], Field(min_length=1)]
    best_alpha: FiniteFloat | None = None
    task: str | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the document as JSON holds it."""
        document = self.model_dump(mode="json")
        for point in document["points"]:
            for score in point["scores"]:
                del score["unit"]
        return document


def parse_interpolation(data: Mapping[str, Any], where: object = "interpolation.json") -> InterpolationDocument:
    """Return `data`, the JSON of an `interpolation.json`, as a document.

    Raises DataError that names the first field that is missing or wrong.
    """
    try:
        return InterpolationDocument.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        hint = "`soupkit interpolate` writes it"
        raise DataError(f"{field}: {said[:1].lower()}{said[1:]}", where, hint) from error
