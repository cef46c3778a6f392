"""Prefixes that wrappers leave in names are stripped, and that is said."""

from pathlib import Path

import pytest
import torch

from soupkit.checkpoint import open_checkpoint
from soupkit.errors import CheckpointError
from tests.conftest import random_state, save


def test_prefixes_are_stripped_and_that_is_said(tmp_path: Path) -> None:
    state = {f"module.{k}": v for k, v in random_state(0).items()}
    with open_checkpoint(save(tmp_path / "x", state)) as checkpoint:
        assert not any(name.startswith("module.") for name in checkpoint)
        assert any("module." in note for note in checkpoint.notes)


def test_names_that_collide_without_their_prefix_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "x", {"module.a": torch.zeros(2), "a": torch.zeros(2)})
    with pytest.raises(CheckpointError, match="twice"):
        open_checkpoint(path)
