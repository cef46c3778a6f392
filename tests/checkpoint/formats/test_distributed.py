"""Folders of torch.distributed.checkpoint, of one rank and of several, in rows and in blocks."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from soupkit.checkpoint import open_checkpoint
from soupkit.errors import CheckpointError
from tests import processes
from tests.checkpoint.test_references import same
from tests.conftest import random_state

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def save(path: Path, document: dict[str, Any]) -> Path:
    dcp.save(document, checkpoint_id=path)
    return path


def large_state() -> dict[str, torch.Tensor]:
    numbers = torch.arange(2 * 7 * 6 * 5, dtype=torch.float32)
    return {"cube": numbers.view(7, 6, 10), "matrix": numbers.view(21, 20), "scale": torch.tensor(2.0).bfloat16()}


def write_sharded(path: str, rank: int, store: str) -> None:
    """One of four ranks: the tensors are cut along both dimensions of a 2 x 2 mesh."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=4)
    mesh = init_device_mesh("cpu", (2, 2))
    placements = {"cube": [Shard(0), Shard(2)], "matrix": [Shard(1), Shard(0)], "scale": None}
    state: dict[str, torch.Tensor | DTensor] = {
        name: distribute_tensor(tensor, mesh, placements[name]) if placements[name] else tensor
        for name, tensor in large_state().items()
    }
    average = {name: distribute_tensor(large_state()[name] + 1, mesh, [Shard(0), Shard(0)]) for name in ("matrix",)}
    dcp.save({"model": state, "ema_model": average, "optimizer": {"lr": 0.1}}, checkpoint_id=path)
    dist.destroy_process_group()


def test_what_several_ranks_wrote_is_put_together(tmp_path: Path) -> None:
    ranks = [processes.fork(write_sharded, str(tmp_path / "d"), rank, str(tmp_path / "store")) for rank in range(4)]
    for rank in ranks:
        rank.join(120)
        assert rank.exitcode == 0
    assert len(list((tmp_path / "d").glob("*.distcp"))) == 4
    with open_checkpoint(tmp_path / "d") as checkpoint, open_checkpoint(f"{tmp_path / 'd'}@ema") as average:
        for name, tensor in large_state().items():
            assert torch.equal(checkpoint.read(name), tensor), name
        same(average, {"matrix": large_state()["matrix"] + 1})


def test_names_of_a_state_dict_alone_are_kept(tmp_path: Path) -> None:
    state = {f"model.{name}": tensor for name, tensor in random_state(0).items() if name != "logit_scale"}
    state["lm_head.weight"] = torch.ones(3)
    with open_checkpoint(save(tmp_path / "d", state)) as checkpoint:
        same(checkpoint, state)


class Bomb:
    """A pickle that would create a file when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.target}",)


def test_code_in_the_metadata_is_not_run(tmp_path: Path) -> None:
    path = save(tmp_path / "d", {"model": random_state(0)})
    metadata = pickle.loads((path / ".metadata").read_bytes())
    metadata.storage_meta = Bomb(tmp_path / "ran")
    (path / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(CheckpointError, match="is no metadata"):
        open_checkpoint(path)
    assert not (tmp_path / "ran").exists()


def changed(path: Path, change: Any) -> Path:
    metadata = pickle.loads((path / ".metadata").read_bytes())
    change(metadata)
    (path / ".metadata").write_bytes(pickle.dumps(metadata))
    return path


def outside(metadata: Any) -> None:
    for location in metadata.storage_data.values():
        location.relative_path = "../secret"


def one_short(metadata: Any) -> None:
    index = next(i for i in metadata.storage_data if i.fqn == "model.text_projection")
    del metadata.storage_data[index]


def two_at_one_place(metadata: Any) -> None:
    index = next(i for i in metadata.storage_data if i.fqn == "model.text_projection")
    metadata.storage_data[MetadataIndex(index.fqn, torch.Size([1, 0]), 7)] = metadata.storage_data[index]


def beyond_the_end(metadata: Any) -> None:
    for location in metadata.storage_data.values():
        location.offset += 10**9


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (outside, "outside of the folder"),
        (one_short, "not covered by its pieces"),
        (two_at_one_place, "not covered by its pieces"),
        (beyond_the_end, "damaged archive"),
    ],
)
def test_a_damaged_folder_is_refused(change: Any, words: str, tmp_path: Path) -> None:
    path = changed(save(tmp_path / "d", {"model": random_state(0)}), change)
    with pytest.raises(CheckpointError, match=words) as caught:
        open_checkpoint(path)
    assert caught.value.hint


def test_a_missing_file_of_a_rank_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "d", {"model": random_state(0)})
    (path / "__0_0.distcp").unlink()
    with pytest.raises(CheckpointError, match="__0_0"):
        open_checkpoint(path)
