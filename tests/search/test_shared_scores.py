"""What `evaluate` has scored, a search takes from the cache, and the other way round."""

from pathlib import Path

import pytest

import soupkit
from soupkit.evaluation import EvaluationOptions
from soupkit.evaluation.evaluator import Evaluator
from soupkit.search import SearchOptions, greedy_search


def test_ingredients_that_were_evaluated_are_not_scored_again(
    fine_tunes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs, options = fine_tunes[:3], EvaluationOptions(cache=tmp_path / "cache", limit=60, batch_size=16, device="cpu")
    scores = soupkit.evaluate(refs[:2], ["digits:val"], options=options).scores
    search = SearchOptions(stopping="none")
    found = greedy_search(
        refs, tmp_path / "soup", tasks=["digits"], search=search, evaluation=options
    ).document.to_dict()
    assert [s["value"] for s in found["ingredients"][:2]] == [s.value for s in scores]
    assert found["images_scored"] == 60 + sum(d["images_scored"] for d in found["decisions"])  # the third one's
    monkeypatch.setattr(Evaluator, "run", None)
    (third,) = soupkit.evaluate(refs[2:], ["digits:val"], options=options).scores
    assert third.value == found["ingredients"][2]["value"]
