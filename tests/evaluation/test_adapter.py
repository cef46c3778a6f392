"""Building a model runs no code of others, and asks the Hub for nothing without a word."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from soupkit.errors import ArchitectureError, CheckpointError
from soupkit.evaluation.adapter import asked_of_the_hub, build_model, open_tokenizer
from soupkit.progress import Silent
from tests.conftest import CONFIG, TINY_MODEL

CODE = "import os\nos.mkdir({!r})\nclass Attack:\n    pass\n"


class Noting(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def with_text(**fields: Any) -> dict[str, Any]:
    return {**CONFIG, "model_cfg": {**TINY_MODEL, "text_cfg": {**TINY_MODEL["text_cfg"], **fields}}}


def with_code(place: Path, kind: str, attacked: Path) -> Path:
    """A folder whose config names a class of its own file of code."""
    place.mkdir()
    (place / "attack.py").write_text(CODE.format(str(attacked)))
    automatic = {"AutoConfig": "attack.Attack", "AutoTokenizer": ["attack.Attack", None]}
    (place / kind).write_text(json.dumps({"model_type": "attack", "auto_map": automatic}))
    (place / "config.json").write_text(json.dumps({"model_type": "attack", "auto_map": automatic}))
    return place


@pytest.mark.parametrize("asked", [{}, {"tokenizer_kwargs": {"trust_remote_code": True}}])
def test_a_tokenizer_with_code_of_its_own_is_refused_without_a_question(
    tmp_path: Path, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    place = with_code(tmp_path / "it", "tokenizer_config.json", tmp_path / "attacked")
    config = with_text(hf_tokenizer_name="somebody/model", **asked)
    with pytest.raises(CheckpointError, match="cannot be opened"):
        open_tokenizer(config, tuple(sorted(place.iterdir())), "somewhere")
    assert not (tmp_path / "attacked").exists()


def test_a_text_tower_with_code_of_its_own_is_refused_without_a_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    place = with_code(tmp_path / "it", "config.json", tmp_path / "attacked")
    config = with_text(hf_model_name=str(place), hf_tokenizer_name="x", pooler_type="mean_pooler")
    with pytest.raises(ArchitectureError, match="cannot be built"):
        build_model(config, torch.device("cpu"), torch.float32)
    assert not (tmp_path / "attacked").exists()


def test_what_the_hub_is_asked_for_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    image = {**CONFIG, "model_cfg": {**TINY_MODEL, "vision_cfg": {"timm_model_name": "hf-hub:somebody/vit"}}}
    text = with_text(hf_model_name="somebody/bert")
    assert asked_of_the_hub(image) == ["its image tower hf-hub:somebody/vit"]
    assert asked_of_the_hub(text) == ["its text tower somebody/bert"]
    assert asked_of_the_hub(CONFIG) == []
    watched = Noting()
    build_model(CONFIG, torch.device("cpu"), torch.float32, progress=watched)
    assert not watched.notes
    monkeypatch.setattr("open_clip.create_model", lambda *_, **__: torch.nn.Identity())
    build_model(text, torch.device("cpu"), torch.float32, progress=watched)
    assert watched.notes == ["its text tower somebody/bert is described on the Hub, which is asked for it"]
