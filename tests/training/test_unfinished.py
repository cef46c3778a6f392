"""The unfinished directory of a run: never begun again once it is over, never another's, and no stranger's code."""

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch.distributed.checkpoint as dcp

import soupkit.training.loop as loop
from soupkit.checkpoint.partial import PartialDirectory
from soupkit.errors import CheckpointError, SoupkitError, StorageError
from soupkit.training import train
from tests.training.runs import IN_PROCESS, WEIGHTS, Interrupting, settings

SHORT = settings(samples=48, warmup=0, ema=None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("whole") / "run"
    train(SHORT, place, options=IN_PROCESS)
    return place


@pytest.fixture
def finished(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a run that is over waits for its last rename, beside checkpoints that are half removed."""
    work = tmp_path / "run.partial"
    shutil.copytree(whole, work)
    (work / "lock").write_text("soupkit train\n")
    (work / "checkpoints" / "32").mkdir(parents=True)

    def step(*_: Any, **__: Any) -> None:
        raise AssertionError("it was trained again")

    monkeypatch.setattr(loop, "contrastive_step", step)
    return tmp_path / "run"


def test_a_run_that_is_over_is_put_in_place_and_not_trained_again(finished: Path, whole: Path) -> None:
    result = train(SHORT, finished, options=IN_PROCESS)
    assert result.status == "trained" and result.samples == 48
    assert (finished / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    assert sorted(p.name for p in finished.iterdir()) == sorted(p.name for p in whole.iterdir())
    assert [p.name for p in finished.parent.iterdir()] == ["run"]


def test_what_has_come_in_its_way_is_said_and_the_run_waits(finished: Path) -> None:
    finished.mkdir()
    (finished / "thesis").write_text("mine")
    with pytest.raises(StorageError, match="not this run") as caught:
        train(SHORT, finished, options=IN_PROCESS)
    assert "move it away: this run is whole" in caught.value.hint
    shutil.rmtree(finished)
    assert train(SHORT, finished, options=IN_PROCESS).samples == 48


def test_weights_that_are_not_those_of_the_record_are_not_put_in_place(finished: Path, tmp_path: Path) -> None:
    weights = tmp_path / "run.partial" / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(StorageError, match="not those that its record names"):
        train(SHORT, finished, options=IN_PROCESS)
    assert not finished.exists()


def test_what_a_kill_after_the_last_rename_leaves_is_swept(finished: Path) -> None:
    train(SHORT, finished, options=IN_PROCESS)
    (finished / "lock").write_text("soupkit train\n")
    assert train(SHORT, finished, options=IN_PROCESS).status == "kept"
    assert not (finished / "lock").exists()


@pytest.mark.parametrize("record", [None, "", "[]", '{"steps": 3}x'])
def test_files_of_others_are_left_alone(tmp_path: Path, record: str | None) -> None:
    work = tmp_path / "run.partial"
    (work / "checkpoints" / "16").mkdir(parents=True)
    (work / "thesis").write_text("mine")
    if record is not None:
        (work / "training.json").write_text(record)
    with pytest.raises((StorageError, CheckpointError), match=r"has not written|no record of a training run"):
        train(SHORT, tmp_path / "run", options=IN_PROCESS)
    assert (work / "thesis").read_text() == "mine" and (work / "checkpoints" / "16").is_dir()


def test_an_unfinished_merge_is_left_alone(tmp_path: Path) -> None:
    with PartialDirectory(tmp_path / "run", "merge") as partial:
        (partial.path / "journal-0.jsonl").write_text("slabs")
    for fresh in (False, True):
        with pytest.raises(StorageError, match="unfinished output of `soupkit merge`"):
            train(SHORT, tmp_path / "run", options=type(IN_PROCESS)(device="cpu", workers=0, fresh=fresh))
    assert (partial.path / "journal-0.jsonl").read_text() == "slabs"


def linked(target: Path) -> Path:
    target.symlink_to(target.with_name("elsewhere"))
    return target


def test_a_target_that_cannot_be_replaced_is_said_before_anything_is_read(tmp_path: Path) -> None:
    run = settings(model=None, init=str(tmp_path / "nothing"))
    for target in (linked(tmp_path / "link"), tmp_path / os.fsdecode(b"caf\xe9"), tmp_path / ("x" * 250)):
        with pytest.raises(SoupkitError, match=r"is a link|no UTF-8|too long"):
            train(run, target, options=IN_PROCESS)
    assert [p.name for p in tmp_path.iterdir()] == ["link"]


class Attack:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place),)


def interrupted(tmp_path: Path) -> Path:
    """A run that was stopped after 16 samples; returns its checkpoint."""
    with pytest.raises(KeyboardInterrupt):
        train(SHORT, tmp_path / "run", options=IN_PROCESS, progress=Interrupting(1))
    return tmp_path / "run.partial" / "checkpoints" / "16"


def test_a_checkpoint_of_a_stranger_runs_no_code(tmp_path: Path) -> None:
    checkpoint = interrupted(tmp_path)
    metadata = dcp.FileSystemReader(checkpoint).read_metadata()
    metadata.planner_data = Attack(tmp_path / "attacked")
    (checkpoint / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(StorageError, match="cannot be read") as caught:
        train(SHORT, tmp_path / "run", options=IN_PROCESS)
    assert caught.value.where == str(checkpoint / ".metadata") and not (tmp_path / "attacked").exists()


def test_what_is_no_tensor_in_a_checkpoint_is_not_read(tmp_path: Path, whole: Path) -> None:
    checkpoint = interrupted(tmp_path)
    metadata = dcp.FileSystemReader(checkpoint).read_metadata()
    content = pickle.dumps(Attack(tmp_path / "attacked"))
    (checkpoint / "attack.distcp").write_bytes(content)
    for index, info in metadata.storage_data.items():
        if "param_groups" in index.fqn:
            info.relative_path, info.offset, info.length = "attack.distcp", 0, len(content)
    (checkpoint / ".metadata").write_bytes(pickle.dumps(metadata))
    train(SHORT, tmp_path / "run", options=IN_PROCESS)
    assert (tmp_path / "run" / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize("damage", ["cut", "missing", "flipped", "metadata"])
def test_a_damaged_checkpoint_is_said_with_what_to_do(tmp_path: Path, damage: str) -> None:
    checkpoint = interrupted(tmp_path)
    part = checkpoint / "__0_0.distcp"
    if damage == "missing":
        part.unlink()
    elif damage == "metadata":
        (checkpoint / ".metadata").write_bytes(b"")
    else:
        content = bytearray(part.read_bytes())
        content[:4] = b"xxxx"
        part.write_bytes(content[:100] if damage == "cut" else bytes(len(content)))
    with pytest.raises(StorageError, match="the checkpoint cannot be read") as caught:
        train(SHORT, tmp_path / "run", options=IN_PROCESS)
    assert str(checkpoint) in caught.value.where and "the one before" in caught.value.hint
    shutil.rmtree(checkpoint)
    assert train(SHORT, tmp_path / "run", options=IN_PROCESS).status == "trained"
