"""How scores are written and drawn: fractions in percent, the numbers of a user's own score as they are."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from soupkit.errors import DataError
from soupkit.evaluation.task import Score
from soupkit.search.document import SearchScore


def row_of(score: Score) -> SearchScore:
    """Return a score that soupkit measured as what reports show, which may lack images and an interval."""
    return SearchScore(
        ref=score.ref,
        fingerprint=score.fingerprint,
        task=score.task,
        split=score.split,
        metric=score.metric,
        value=score.value,
        n=score.n,
        low=score.low,
        high=score.high,
        metrics=score.metrics,
    )


def score_row(data: Mapping[str, Any], where: object) -> SearchScore:
    """Return the score that `data`, of `where`, say. Raises DataError with the first field that is missing or wrong."""
    try:
        return SearchScore.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ").lower()
        raise DataError(f"{field}: {said}".removeprefix(": "), where, "scores are fractions, not percent") from error


def factor(score: SearchScore) -> float:
    """Return what a score's values are multiplied by where they are drawn or written."""
    return 100.0 if score.unit == "fraction" else 1.0


def sign(score: SearchScore) -> str:
    """Return what follows its name on an axis or in the head of a column."""
    return ", %" if score.unit == "fraction" else ""


def shown(value: float | None, score: SearchScore) -> str:
    """Write a value of the unit of `score`: in percent with two decimals, or a number; nothing for None."""
    if value is None:
        return ""
    return f"{100 * value:.2f}" if score.unit == "fraction" else f"{value:.5g}"


def percent(value: float | None) -> str:
    """Write a fraction in percent with two decimals; nothing for None."""
    return "" if value is None else f"{100 * value:.2f}"


def interval(score: SearchScore) -> str:
    """Write the interval of a score; nothing where there is none."""
    if score.low is None or score.high is None:
        return ""
    places = ".1f" if score.unit == "fraction" else ".5g"
    return f"{factor(score) * score.low:{places}}–{factor(score) * score.high:{places}}"
