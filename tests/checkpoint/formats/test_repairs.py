"""What open_clip mends while it loads is mended, and said; other models are left alone."""

from pathlib import Path

import torch

import soupkit
from soupkit.checkpoint import open_checkpoint
from tests.checkpoint.test_references import same
from tests.conftest import random_state, save


def test_a_scale_of_one_element_merges_with_a_scalar(tmp_path: Path) -> None:
    a, b = random_state(0), random_state(1)
    a["logit_scale"] = a["logit_scale"].reshape(1)
    refs = [save(tmp_path / "a", a), save(tmp_path / "b", b)]
    result = soupkit.merge(refs, tmp_path / "soup")
    assert any("logit_scale is a list of one number" in note for note in result.notes)
    with open_checkpoint(tmp_path / "soup") as soup:
        assert torch.equal(soup["logit_scale"], ((a["logit_scale"].double()[0] + b["logit_scale"]) / 2).float())


def test_positions_that_old_text_towers_count_are_left_out(tmp_path: Path) -> None:
    state = random_state(0)
    old = {**state, "text.transformer.embeddings.position_ids": torch.arange(8)[None]}
    with open_checkpoint(save(tmp_path / "x", old)) as checkpoint:
        same(checkpoint, state)


def test_what_is_no_clip_is_left_alone(tmp_path: Path) -> None:
    state = {"logit_scale": torch.ones(1), "vision_model.head.weight": torch.ones(2, 2)}
    with open_checkpoint(save(tmp_path / "x", state)) as checkpoint:
        same(checkpoint, state)
