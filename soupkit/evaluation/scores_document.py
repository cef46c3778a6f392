"""scores.json: what an evaluation wrote down, for reports, cards and people. Written and read here alone."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from soupkit.errors import DataError
from soupkit.evaluation.task import ClassHits, Number, Pair, PairPictures, Reliability, Score
from soupkit.files import parse_json, read_text, write_whole

if TYPE_CHECKING:
    from soupkit.evaluation.run_evaluation import Evaluation

SCORES = "scores.json"
_HINT = "`soupkit evaluate -o FILE` writes such a document"


@dataclass(frozen=True, slots=True)
class ScoresDocument:
    """Scores of models on tasks, and the first model against every other, image by image. `limit` is how many images of
    a task counted, None for all; `timings` and `seconds` are those of the command, where it wrote them; `reliability`
    are the bins of models whose probabilities were asked for, `classes` the counts by class where they were,
    `differing` the pictures on which two models differ."""

    scores: Annotated[tuple[Score, ...], Field(min_length=1)]
    pairs: tuple[Pair, ...] = ()
    limit: int | None = None
    notes: tuple[str, ...] = ()
    timings: Mapping[str, Number] | None = None
    seconds: Number | None = None
    reliability: tuple[Reliability, ...] = ()
    classes: tuple[ClassHits, ...] = ()
    differing: tuple[PairPictures, ...] = ()

    @classmethod
    def of(cls, result: "Evaluation", limit: int | None, *, timed: bool = True) -> "ScoresDocument":
        """Return the document of an evaluation, with how long it took if it is to be `timed`."""
        document = cls(result.scores, result.pairs, limit, result.notes, reliability=result.reliability)
        document = replace(document, classes=result.classes, differing=result.differing)
        return replace(document, timings=result.timings, seconds=result.seconds) if timed else document

    def fields(self) -> dict[str, Any]:
        """Return what the document holds beside its schema and command, for JSON."""
        document: dict[str, Any] = {
            "scores": [asdict(score) for score in self.scores],
            "pairs": [asdict(pair) for pair in self.pairs],
            "limit": self.limit,
            "notes": list(self.notes),
        }
        bins = [asdict(of_model) for of_model in self.reliability] or None
        classes = [asdict(of_model) for of_model in self.classes] or None
        differing = [asdict(of_pair) for of_pair in self.differing] or None
        where_known = {
            "timings": self.timings, "seconds": self.seconds, "reliability": bins, "classes": classes,
            "differing": differing,
        }  # fmt: skip
        return document | {name: value for name, value in where_known.items() if value is not None}

    def write(self, path: Path) -> None:
        """Write the document to `path`. Raises StorageError."""
        document = {"schema": 1, "command": "evaluate", **self.fields()}
        write_whole(path, json.dumps(document, indent=2, allow_nan=False) + "\n")


def read_scores_document(path: Path) -> ScoresDocument:
    """Read a document of scores. Raises DataError for a file that is none, with the first field that is wrong."""
    try:
        data = parse_json(read_text(path))
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path, _HINT) from error
    except ValueError as error:  # not UTF-8, no JSON, nested by the thousand
        raise DataError(f"cannot be read as JSON: {str(error)[:120]}", path, _HINT) from error
    return parse_scores_document(data, path)


def parse_scores_document(data: Any, where: object) -> ScoresDocument:
    """Return the document that JSON `data`, those of `where`, are; keys that it does not know are of later versions.

    Raises DataError.
    """
    if not isinstance(data, dict):
        raise DataError("is not a JSON object", where, _HINT)
    try:
        return TypeAdapter(ScoresDocument).validate_python({k: v for k, v in data.items() if v is not None})
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        hint = "scores are fractions, not percent" if first["type"] == "less_than_equal" else _HINT
        raise DataError(f"has a field {field} that is wrong: {first['msg'].lower()}", where, hint) from error
