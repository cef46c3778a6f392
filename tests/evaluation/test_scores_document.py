"""scores.json is read as it was written, and what is no such document is refused by the field that is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from soupkit.errors import DataError
from soupkit.evaluation.scores_document import ScoresDocument, read_scores_document
from soupkit.evaluation.task import ClassHits, Pair, Score

SCORE = Score("a", "xxh3:1", "digits", "test", "acc1", 0.5, 4, 0.1, 0.9, {"acc1": 0.5, "acc5": None})
CLASSES = {"ref": "a", "task": "digits", "split": "test", "classes": ["zero", "one"], "images": [3, 1]}
PAIR = Pair("a", "b", "digits", "test", 1, 2, 0.5, ("x",), ("y", "z"))


def document(**changes: Any) -> dict[str, Any]:
    """A document of version 0.1, as `evaluate -o` wrote it."""
    score = {
        "ref": "a", "fingerprint": "xxh3:1", "task": "digits", "split": "test", "metric": "acc1", "value": 0.5, "n": 4,
        "low": 0.1, "high": 0.9, "metrics": {"acc1": 0.5, "acc5": None},
    }  # fmt: skip
    return {"schema": 1, "command": "evaluate", "scores": [score | changes], "pairs": [], "limit": None, "notes": []}


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_document_is_read_as_it_was_written(tmp_path: Path) -> None:
    classes = (ClassHits("a", "digits", "test", ("zero", "one"), (3, 1), (2, 0)),)
    written = ScoresDocument((SCORE,), (PAIR,), 4, ("a note",), {"open": 0.5}, 1.5, classes=classes)
    written.write(tmp_path / "scores.json")
    assert read_scores_document(tmp_path / "scores.json") == written


def test_what_was_not_timed_says_nothing_of_time() -> None:
    assert list(ScoresDocument((SCORE,)).fields()) == ["scores", "pairs", "limit", "notes"]


def test_an_old_document_and_one_with_more_keys_are_read(tmp_path: Path) -> None:
    for old in (document(), document(later="x") | {"pairs": None, "later": 1}):
        assert read_scores_document(write(tmp_path / "x.json", old)) == ScoresDocument((SCORE,))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no JSON", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ([1], "is not a JSON object"),
        ({"scores": []}, "scores"),
        ({"scores": {"a": 1}}, "scores"),
        ({"pairs": []}, "scores"),
        (document(value=50), r"scores\.0\.value"),
        (document(value=float("nan")), r"scores\.0\.value"),
        (document(ref=["a"]), r"scores\.0\.ref"),
        (document(metrics={"acc1": {}}), r"scores\.0\.metrics\.acc1"),
        (document(n=-1), r"scores\.0\.n"),
        (document() | {"classes": [CLASSES | {"right": [1]}]}, "different lengths"),
        (document() | {"classes": [CLASSES | {"right": [9, 0]}]}, "more images of a class are right than there are"),
        (document() | {"pairs": [{"first": "a"}]}, r"pairs\.0\.second"),
    ],
)
def test_what_is_no_document_is_refused_by_its_field(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_scores_document(write(tmp_path / "x.json", content))
    assert caught.value.where.endswith("x.json") and caught.value.hint


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_scores_document(tmp_path / "scores.json")
