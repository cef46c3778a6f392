"""Pickled checkpoints are read without running what they may contain, or refused with the way out."""

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from soupkit.checkpoint import open_checkpoint
from soupkit.errors import CheckpointError
from tests.checkpoint.test_references import same
from tests.conftest import random_state


def test_views_and_transposed_tensors_in_a_pickle_are_read_in_order(tmp_path: Path) -> None:
    whole = torch.arange(60.0).view(6, 10)
    state = {
        "view": whole[2:4, 3:7],
        "turned": whole.t(),
        "expanded": torch.ones(1, 3).expand(4, 3),
        "offset": whole.flatten()[7:11],
    }
    torch.save(state, tmp_path / "x.pt")
    with open_checkpoint(tmp_path / "x.pt") as checkpoint:
        same(checkpoint, {k: v.contiguous() for k, v in state.items()})


class Bomb:
    """A pickle that would create a file when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.target}",)


def test_a_pickle_with_code_in_it_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2), "b": Bomb(tmp_path / "ran")}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="not opened"):
        open_checkpoint(tmp_path / "x.pt")
    assert not (tmp_path / "ran").exists()


def test_an_old_pickle_is_refused_with_the_line_that_converts_it(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path / "x.pt")
    code = caught.value.hint.split('python -c "')[1].rstrip('"')
    exec(code)
    with open_checkpoint(tmp_path / "x.new.pt") as checkpoint:
        same(checkpoint, {"a": torch.zeros(2)})


def test_a_plain_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CheckpointError, match="zip"):
        open_checkpoint(tmp_path / "x.bin")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_torchscript_archive_is_refused_with_the_line_that_converts_it(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="TorchScript") as caught:
        open_checkpoint(tmp_path / "x.pt")
    assert "torch.jit.load" in caught.value.hint


@pytest.mark.parametrize("cut", [1, 10, 300, 2000])
def test_a_pickle_cut_short_is_refused(cut: int, tmp_path: Path) -> None:
    torch.save(random_state(0), tmp_path / "x.pt")
    data = (tmp_path / "x.pt").read_bytes()
    (tmp_path / "x.pt").write_bytes(data[:-cut])
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path / "x.pt")


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(200)}, tmp_path / "x.pt")
    with (
        zipfile.ZipFile(tmp_path / "x.pt") as old,
        zipfile.ZipFile(tmp_path / "y.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    with pytest.raises(CheckpointError, match="compressed"):
        open_checkpoint(tmp_path / "y.pt")


@pytest.mark.parametrize(
    "document", [{"lr": 0.1}, [torch.zeros(2)], {"a": torch.zeros(2), "b": 3}, {1: torch.zeros(2)}]
)
def test_a_pickle_without_a_state_dict_is_refused(document: object, tmp_path: Path) -> None:
    torch.save(document, tmp_path / "x.pt")
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path / "x.pt")
