"""An index and its shards agree, and stay in their directory."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from soupkit.checkpoint import open_checkpoint
from soupkit.errors import CheckpointError
from tests.checkpoint.formats.samples import shards
from tests.conftest import random_state


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", 3])
def test_a_shard_name_that_leaves_the_directory_is_refused(name: object, tmp_path: Path) -> None:
    path = shards(tmp_path / "x", random_state(0)).parent
    save_file({"logit_scale": torch.zeros(())}, tmp_path / "secret.safetensors")
    index = path / "model.safetensors.index.json"
    document = json.loads(index.read_text())
    document["weight_map"]["logit_scale"] = name
    index.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="outside its directory"):
        open_checkpoint(path)


def test_an_index_that_disagrees_with_its_shards_is_refused(tmp_path: Path) -> None:
    path = shards(tmp_path / "x", random_state(0)).parent
    index = path / "model.safetensors.index.json"
    document = json.loads(index.read_text())
    moved = dict(document["weight_map"], ghost="model-1-of-2.safetensors")
    index.write_text(json.dumps({"weight_map": moved}))
    with pytest.raises(CheckpointError, match="ghost"):
        open_checkpoint(path)
    del document["weight_map"]["logit_scale"]
    index.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="logit_scale"):
        open_checkpoint(path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    path = shards(tmp_path / "x", random_state(0)).parent
    (path / "model-2-of-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model-2-of-2"):
        open_checkpoint(path)
