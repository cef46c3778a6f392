"""Pictures that two models differ on: those of the images, small, in the document, on the page, and only if asked."""

import io
import json
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from soupkit.errors import DataError, UsageError
from soupkit.evaluation import EvaluationOptions, evaluate, open_tasks
from soupkit.evaluation.scores_document import ScoresDocument, read_scores_document
from soupkit.publishing.reports.report import make_report


@pytest.fixture(scope="module")
def digit_models(short_runs: Callable[[str], Path]) -> list[Path]:
    return [short_runs("stage1"), short_runs("b")]


@pytest.fixture(scope="module")
def document(digit_models: list[Path], tmp_path_factory: pytest.TempPathFactory) -> ScoresDocument:
    options = EvaluationOptions(cache=tmp_path_factory.mktemp("cache"), device="cpu", limit=60)
    evaluate(digit_models[:2], ["digits"], options=options)  # pictures of scores from the cache are the same
    return ScoresDocument.of(evaluate(digit_models[:2], ["digits"], options=options, pictures=4), 60)


def test_the_pictures_are_those_of_images_that_only_one_gets_right(document: ScoresDocument) -> None:
    (shown,), (pair,) = document.differing, document.pairs
    assert len(shown.only_first) == min(4, pair.only_first) and len(shown.only_second) == min(4, pair.only_second)
    assert {p.key for p in shown.only_first} <= set(pair.images_only_first)
    assert {p.key for p in shown.only_second} <= set(pair.images_only_second)
    (task,) = open_tasks(["digits"])
    samples = {s.key: s for s in (task.dataset.read(i) for i in range(len(task.dataset)))}
    pictures = [*shown.only_first, *shown.only_second]
    assert pictures
    for picture in pictures:
        sample = samples[picture.key]
        assert picture.label == task.classnames[int(sample.label)]
        original = PIL.Image.open(io.BytesIO(sample.data)).convert("RGB")
        small = PIL.Image.open(io.BytesIO(b64decode(picture.jpeg))).convert("RGB")
        assert max(small.size) <= 96
        difference = np.asarray(original.resize(small.size), float) - np.asarray(small, float)
        assert np.abs(difference).mean() < 25


def test_the_page_shows_them_only_if_asked_and_a_document_of_others_can_smuggle_nothing_in(
    document: ScoresDocument, tmp_path: Path
) -> None:
    scores = tmp_path / "scores.json"
    document.write(scores)
    assert read_scores_document(scores).differing == document.differing
    make_report([scores], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    (shown,) = document.differing
    for picture in (*shown.only_first, *shown.only_second):
        assert f'src="data:image/jpeg;base64,{picture.jpeg}" alt="{picture.label}"' in text
    data = json.loads(scores.read_text())
    plain = {key: value for key, value in data.items() if key != "differing"}
    scores.write_text(json.dumps(plain))
    make_report([scores], tmp_path / "plain.html")
    assert "data:image/jpeg" not in (tmp_path / "plain.html").read_text()
    for hostile in ('"><script>', "PHN2Zz4=", "/9j/" + "A" * (1 << 17)):
        data["differing"][0]["only_first"] = [{"key": "k", "label": "<b>", "jpeg": hostile}]
        scores.write_text(json.dumps(data))
        with pytest.raises(DataError, match="jpeg"):
            make_report([scores], tmp_path / "hostile.html")
    data["differing"][0]["only_first"] = [{"key": '"><script>k', "label": "<script>b", "jpeg": "/9j/AAAA"}]
    scores.write_text(json.dumps(data))
    make_report([scores], tmp_path / "hostile.html")
    assert "<script>b" not in (tmp_path / "hostile.html").read_text()


def test_none_are_kept_unless_asked_and_too_many_are_refused(digit_models: list[Path]) -> None:
    options = EvaluationOptions(cache=None, device="cpu", limit=20)
    assert evaluate(digit_models[:2], ["digits"], options=options).differing == ()
    with pytest.raises(UsageError, match="--pictures: 101 is out of bounds"):
        evaluate(digit_models[:2], ["digits"], options=options, pictures=101)
