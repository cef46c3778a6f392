"""What wrappers put around names is stripped, and that is said; names of other models are left alone."""

from pathlib import Path

import pytest
import torch

from soupkit.checkpoint import open_checkpoint
from soupkit.checkpoint.architecture import architecture_of
from soupkit.errors import ArchitectureError, CheckpointError
from tests.checkpoint.test_references import same
from tests.conftest import random_state, save


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "clip.", "module.model.clip."]
)
def test_a_prefix_of_all_names_of_a_clip_is_stripped_and_that_is_said(prefix: str, tmp_path: Path) -> None:
    state = random_state(0)
    with open_checkpoint(save(tmp_path / "x", {prefix + k: v for k, v in state.items()})) as checkpoint:
        same(checkpoint, state)
        for word in prefix.rstrip(".").split("."):
            assert f"prefix '{word}.' stripped from {len(state)} names" in checkpoint.notes


@pytest.mark.parametrize("wrapper", ["_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"])
def test_wrappers_within_names_are_stripped(wrapper: str, tmp_path: Path) -> None:
    state = random_state(0)
    wrapped = {name.replace("resblocks.0.", f"resblocks.0.{wrapper}."): tensor for name, tensor in state.items()}
    with open_checkpoint(save(tmp_path / "x", wrapped)) as checkpoint:
        same(checkpoint, state)
        assert f"prefix '{wrapper}.' stripped from 2 names" in checkpoint.notes


def test_names_of_a_language_model_keep_what_they_share(tmp_path: Path) -> None:
    state = {"model.embed_tokens.weight": torch.ones(2, 3), "model.layers.0.mlp.up_proj.weight": torch.ones(3, 2)}
    with open_checkpoint(save(tmp_path / "x", state)) as checkpoint:
        same(checkpoint, state)
        assert not checkpoint.notes


def test_names_that_collide_without_their_prefix_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "x", {"module.a": torch.zeros(2), "a": torch.zeros(2)})
    with pytest.raises(CheckpointError, match="twice"):
        open_checkpoint(path)


def test_a_kept_head_stops_the_stripping(tmp_path: Path) -> None:
    state = {"classification_head.weight": torch.ones(10, 12)}
    state |= {f"model.{name}": tensor for name, tensor in random_state(0).items()}
    with open_checkpoint(save(tmp_path / "x", state)) as checkpoint:
        same(checkpoint, state)
        with pytest.raises(ArchitectureError) as caught:
            architecture_of(checkpoint, model="ViT-B-32")
    assert "classification_head.weight" in caught.value.what
