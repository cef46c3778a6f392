"""The evaluator's benchmark runs, at a size that says nothing about speed."""

import json
from argparse import Namespace
from pathlib import Path

import open_clip
import pytest
import torch

from benchmarks import evaluate, evaluate_throughput
from benchmarks.rounds import run_rounds
from tests.evaluation.zoo import MODELS


@pytest.fixture
def tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ViT of two layers in place of the model that is named."""
    vision = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
    text = {**MODELS["resnet"]["text_cfg"], "context_length": 77}

    def create(_: str) -> torch.nn.Module:
        return open_clip.CLIP(32, dict(vision), dict(text))

    monkeypatch.setattr(open_clip, "create_model", create)


def test_the_classifiers_are_compared_and_agree(tiny_model: None, tmp_path: Path) -> None:
    arguments = Namespace(classes=12, rounds=2, work=tmp_path, disturbance=1.0)
    text = evaluate.classifier(arguments)
    differences = [float(line.split("|")[4]) for line in text if line.startswith(("| soupkit", "| distinct"))]
    assert len(differences) == 2 and max(differences) < 1e-5
    assert evaluate.classifier(arguments) == text  # nothing again


def test_growth_tells_tokens_and_times_of_every_size(tiny_model: None, tmp_path: Path) -> None:
    arguments = Namespace(growth=[20, 10], work=tmp_path, disturbance=1.0)
    text = evaluate.growth(arguments)
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text[-2:]]
    assert [row[:2] for row in rows] == [["10", "61,600"], ["20", "123,200"]]
    for _, padded, needed, ratio, theirs, _, ours, faster, _ in rows:
        assert float(ratio) == round(int(padded.replace(",", "")) / int(needed.replace(",", "")), 1)
        assert min(float(theirs), float(ours)) >= 0 < float(faster.split()[0])
    assert len((tmp_path / "rounds-evaluate.jsonl").read_text().splitlines()) == 4
    assert evaluate.growth(arguments) == text  # nothing again


def test_the_pass_finds_what_open_clips_loop_finds(tiny_model: None) -> None:
    options = Namespace(model="tiny", device="cpu", precision="fp32", images=40, batch=16, compile=False, rounds=1)
    text = evaluate_throughput.throughput(options)
    assert "Top-1 differs by 0.0e+00" in text[-1]
    assert [line.count("|") for line in text if line.startswith(("| soupkit", "| open_clip"))] == [5, 5]


def test_rounds_that_are_done_are_not_done_again(tmp_path: Path) -> None:
    place, calls = tmp_path / "rounds.jsonl", iter([1.0, 2.0, 3.0])

    def one(before: int) -> dict[str, float]:
        return {"a": next(calls), "before": before}

    place.write_text(json.dumps({"title": "other", "figures": {"a": 9.0}}) + "\n")
    assert [r["a"] for r in run_rounds("mine", 1, one, place)] == [1]
    found = run_rounds("mine", 3, one, place)
    assert [r["a"] for r in found] == [1, 2, 3] and [r["before"] for r in found] == [0, 1, 2]
    assert all(0 <= r["others"] <= 1 for r in found)
    assert run_rounds("other", 1, one, place) == [{"a": 9.0}]


def test_a_round_that_others_disturb_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([(0, 0), (10, 20), (20, 30), (29, 40)])  # own seconds and everyone's, before and after
    monkeypatch.setattr("benchmarks.rounds._processor_seconds", lambda: next(clock))
    answers = iter([{"a": 1.0}, {"a": 2.0}])
    (figures,) = run_rounds("x", 1, lambda _: next(answers), None, disturbance=0.2)
    assert figures == {"a": 2.0, "others": pytest.approx(0.1)}
