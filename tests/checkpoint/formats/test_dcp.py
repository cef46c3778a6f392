"""Metadata of torch.distributed.checkpoint: what torch reads, and nothing that runs."""

import io
import os
import pickle
import random
import resource
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict

from soupkit.checkpoint.formats.dcp import METADATA_NAME, read_metadata
from soupkit.errors import CheckpointError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with its optimizer, as torch writes them."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2, dtype=torch.bfloat16))
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    weights, moments = get_state_dict(model, optimizer)
    path = tmp_path_factory.mktemp("dcp") / "checkpoint"
    dcp.save({"model": weights, "optimizer": moments, "counts": torch.tensor([1, 2])}, checkpoint_id=path)
    return path


def test_it_says_what_torch_says(folder: Path) -> None:
    ours, theirs = read_metadata(folder), dcp.FileSystemReader(folder).read_metadata()
    assert ours.state_dict_metadata == theirs.state_dict_metadata
    assert ours.storage_data == theirs.storage_data and ours.planner_data == theirs.planner_data


class Attack:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place),)


def copy_of(folder: Path, place: Path, metadata: bytes) -> Path:
    place.mkdir()
    for file in folder.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    (place / METADATA_NAME).write_bytes(metadata)
    return place


@pytest.mark.parametrize("where", ["alone", "in the plan", "in the place of a name"])
def test_no_code_of_a_file_runs(folder: Path, tmp_path: Path, where: str) -> None:
    metadata: Any = dcp.FileSystemReader(folder).read_metadata()
    attack = Attack(tmp_path / "attacked")
    if where == "in the plan":
        metadata.planner_data = attack
    elif where == "in the place of a name":
        metadata.state_dict_metadata = {"a": attack}
    content = pickle.dumps(attack if where == "alone" else metadata)
    with pytest.raises(CheckpointError, match=r"it names posix\.mkdir"):
        read_metadata(copy_of(folder, tmp_path / "copy", content))
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize("name", ["../other", "/etc/passwd", "..", "a/b", "link", "pipe", "missing"])
def test_what_lies_elsewhere_or_is_no_file_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    metadata: Any = dcp.FileSystemReader(folder).read_metadata()
    next(iter(metadata.storage_data.values())).relative_path = name
    place = copy_of(folder, tmp_path / "copy", pickle.dumps(metadata))
    (place / "link").symlink_to(folder / "__0_0.distcp")
    os.mkfifo(place / "pipe")
    with pytest.raises(CheckpointError, match=r"outside of the folder|no file"):
        read_metadata(place)


def test_a_pipe_in_the_place_of_the_metadata_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / METADATA_NAME)
    with pytest.raises(CheckpointError, match="no file"):
        read_metadata(tmp_path)


def test_a_file_that_is_cut_short_is_said(folder: Path, tmp_path: Path) -> None:
    place = copy_of(folder, tmp_path / "copy", (folder / METADATA_NAME).read_bytes())
    part = place / "__0_0.distcp"
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="cut short") as caught:
        read_metadata(place)
    assert caught.value.where == str(part)


def test_one_chunk_named_again_and_again_ends(folder: Path, tmp_path: Path) -> None:
    metadata: Any = dcp.FileSystemReader(folder).read_metadata()
    entry = metadata.state_dict_metadata["counts"]
    entry.chunks *= 10_000
    metadata.state_dict_metadata = {str(i): entry for i in range(10_000)}
    with pytest.raises(CheckpointError, match="more chunks than bytes"):
        read_metadata(copy_of(folder, tmp_path / "copy", pickle.dumps(metadata)))


def test_damage_is_an_error_or_changes_a_value_and_never_more(folder: Path, tmp_path: Path) -> None:
    whole = (folder / METADATA_NAME).read_bytes()
    place = copy_of(folder, tmp_path / "copy", whole)
    moments = random.Random(0)
    for _ in range(2000):
        damaged = bytearray(whole)
        for _ in range(moments.randrange(1, 4)):
            damaged[moments.randrange(len(damaged))] = moments.randrange(256)
        if moments.random() < 0.2:
            damaged = damaged[: moments.randrange(len(damaged))]
        (place / METADATA_NAME).write_bytes(damaged)
        with suppress(CheckpointError):
            read_metadata(place)


def test_a_number_that_stands_for_gigabytes_takes_none(tmp_path: Path) -> None:
    (tmp_path / METADATA_NAME).write_bytes(b"\x80\x04]r\xff\xff\xff\xffN.")  # remember this under number 2^32 - 1
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match="a NoneType where a Metadata should be"):
        read_metadata(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20, "a GiB"


def test_the_classes_of_one_file_are_not_those_of_the_next(folder: Path, tmp_path: Path) -> None:
    # BUILD sets attributes of whatever is on the stack, a class as well.
    name = b"torch.distributed.checkpoint.metadata"
    stream = io.BytesIO()
    stream.write(b"c" + name + b"\nMetadata\n" + b"(N}X\x07\x00\x00\x00poisonK\x01stb.")
    with pytest.raises(CheckpointError):
        read_metadata(copy_of(folder, tmp_path / "copy", stream.getvalue()))
    assert not hasattr(dcp.metadata.Metadata, "poison")
    assert read_metadata(folder).state_dict_metadata
