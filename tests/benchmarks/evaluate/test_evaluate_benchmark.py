"""The evaluator's benchmarks run, at a size that says nothing about speed."""

from pathlib import Path

import open_clip
import pytest
import torch

from benchmarks.evaluate.__main__ import ROOM
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
    arguments = ROOM.parse(["classifier", "--classes", "12", "--rounds", "2", "--work", str(tmp_path)])
    text = arguments.run(arguments)
    differences = [float(line.split("|")[4]) for line in text if line.startswith(("| soupkit", "| distinct"))]
    assert len(differences) == 2 and max(differences) < 1e-5
    assert arguments.run(arguments) == text  # nothing again


def test_growth_tells_tokens_and_times_of_every_size(tiny_model: None, tmp_path: Path) -> None:
    arguments = ROOM.parse(["growth", "--classes", "20", "10", "--work", str(tmp_path)])
    text = arguments.run(arguments)
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text[-2:]]
    assert [row[:2] for row in rows] == [["10", "61,600"], ["20", "123,200"]]
    for _, padded, needed, ratio, theirs, _, ours, faster, _ in rows:
        assert float(ratio) == round(int(padded.replace(",", "")) / int(needed.replace(",", "")), 1)
        assert min(float(theirs), float(ours)) >= 0 < float(faster.split()[0])
    assert len((tmp_path / "rounds-evaluate-growth.jsonl").read_text().splitlines()) == 4
    assert arguments.run(arguments) == text  # nothing again


def test_the_pass_finds_what_open_clips_loop_finds(tiny_model: None) -> None:
    options = ["--model", "tiny", "--device", "cpu", "--images", "40", "--batch", "16", "--rounds", "1"]
    arguments = ROOM.parse(["throughput", *options])
    text = arguments.run(arguments)
    assert "Top-1 differs by 0.0e+00" in text[-1]
    assert [line.count("|") for line in text if line.startswith(("| soupkit", "| open_clip"))] == [5, 5]
