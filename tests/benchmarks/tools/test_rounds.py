"""Rounds are kept, counted once, and measured again where others disturbed them."""

import json
from pathlib import Path

import pytest

from benchmarks.tools.rounds import Record, run_rounds


def test_rounds_that_are_done_are_not_done_again(tmp_path: Path) -> None:
    path, calls = tmp_path / "rounds.jsonl", iter([1.0, 2.0, 3.0])

    def one(before: int) -> dict[str, float]:
        return {"a": next(calls), "before": before}

    path.write_text(json.dumps({"title": "other", "figures": {"a": 9.0}}) + "\n")
    assert [r["a"] for r in run_rounds("mine", 1, one, Record(path))] == [1]
    figures = run_rounds("mine", 3, one, Record(path))
    assert [r["a"] for r in figures] == [1, 2, 3] and [r["before"] for r in figures] == [0, 1, 2]
    assert all(0 <= r["others"] <= 1 for r in figures)
    assert run_rounds("other", 1, one, Record(path)) == [{"a": 9.0}]


def test_a_round_that_others_disturb_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([(0, 0), (10, 20), (20, 30), (29, 40)])  # own seconds and everyone's, before and after
    monkeypatch.setattr("benchmarks.tools.rounds._processor_seconds", lambda: next(clock))
    answers = iter([{"a": 1.0}, {"a": 2.0}])
    (figures,) = run_rounds("x", 1, lambda _: next(answers), Record(None), disturbance=0.2)
    assert figures == {"a": 2.0, "others": pytest.approx(0.1)}
