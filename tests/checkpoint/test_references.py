"""Every kind of reference opens to the same tensors, and what cannot be trusted is refused."""

import shutil
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from soupkit.checkpoint import Checkpoint, fingerprint, open_checkpoint
from soupkit.errors import CheckpointError
from tests.checkpoint.formats.samples import shards
from tests.conftest import CONFIG, random_state, save


def same(checkpoint: Checkpoint, state: dict[str, torch.Tensor]) -> None:
    assert set(checkpoint) == set(state)
    for name, tensor in state.items():
        assert torch.equal(checkpoint[name], tensor), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_all_kinds_of_files_hold_the_same_weights(dtype: torch.dtype, tmp_path: Path) -> None:
    state = random_state(0, dtype)
    state["visual.bn1.num_batches_tracked"] = torch.tensor(7)
    places = [
        save(tmp_path / "dir", state, CONFIG),
        tmp_path / "x.safetensors",
        shards(tmp_path / "shards", state).parent,
    ]
    save_file(state, tmp_path / "x.safetensors")
    for name, document in {
        "plain.pt": state,
        "nested.pth": {"epoch": 3, "name": "x", "state_dict": OrderedDict(state), "optimizer": {"lr": 0.1}},
        "wrapped.bin": {"model": {f"module._orig_mod.{k}": v for k, v in state.items()}},
    }.items():
        torch.save(document, tmp_path / name)
        places.append(tmp_path / name)
    places.append(shards(tmp_path / "bins", state, "bin").parent)
    (tmp_path / "old").mkdir()
    shutil.copyfile(tmp_path / "plain.pt", tmp_path / "old" / "open_clip_pytorch_model.bin")
    places.append(tmp_path / "old")
    prints = set()
    for place in places:
        with open_checkpoint(place) as checkpoint:
            same(checkpoint, state)
            prints.add(fingerprint(checkpoint).value)
    assert len(prints) == 1


def test_a_directory_with_several_checkpoints_asks_which(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_file({"a": torch.zeros(2)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match=r"one\.safetensors, two\.safetensors"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("place", ["empty", "nowhere", "notes.txt"])
def test_what_is_no_checkpoint_is_refused(place: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path / place)


@pytest.mark.parametrize("config", ["{", "[]", "{}", '{"model_cfg": {"vision_cfg": 3}}'])
def test_a_config_that_is_none_is_refused(config: str, tmp_path: Path) -> None:
    path = save(tmp_path / "x", random_state(0))
    (path / "open_clip_config.json").write_text(config)
    with pytest.raises(CheckpointError, match="open_clip_config"):
        open_checkpoint(path)
