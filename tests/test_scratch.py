"""Temporary directories: removed at the end, and after a kill by whoever comes next; never another's."""

import os
import signal
from pathlib import Path

import pytest

import soupkit.scratch as scratch
from soupkit.scratch import ScratchDirectory


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(scratch, "_YOUNG", 0.0)
    return tmp_path


def left_by_a_kill(place: Path) -> Path:
    pid = os.fork()
    if not pid:
        directory = ScratchDirectory()
        (Path(directory.name) / "weights").write_text("x")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    (left,) = place.iterdir()
    return left


def test_it_is_gone_at_the_end(place: Path) -> None:
    with ScratchDirectory() as name:
        assert Path(name).parent == place and Path(name).is_dir()
    assert not list(place.iterdir())


def test_what_a_killed_process_left_is_removed_by_the_next(place: Path) -> None:
    left = left_by_a_kill(place)
    assert (left / "weights").is_file()
    with ScratchDirectory() as name:
        assert [str(p) for p in place.iterdir()] == [name]


def test_one_that_is_used_stays(place: Path) -> None:
    with ScratchDirectory() as first, ScratchDirectory() as second:
        assert Path(first).is_dir() and Path(second).is_dir()


def test_one_that_was_just_made_stays(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = left_by_a_kill(place)
    monkeypatch.setattr(scratch, "_YOUNG", 60.0)
    with ScratchDirectory():
        assert left.is_dir()


@pytest.mark.parametrize("name", ["soupkit-results", "soupkit-scratch-mine", "soupkit-scratch-12345678.bak"])
def test_what_is_called_otherwise_stays(place: Path, name: str) -> None:
    (place / name).mkdir()
    with ScratchDirectory():
        assert (place / name).is_dir()


def test_a_link_of_that_name_is_not_followed(place: Path) -> None:
    (place / "mine").mkdir()
    (place / "mine" / "thesis").touch()
    (place / "soupkit-scratch-12345678").symlink_to("mine")
    with ScratchDirectory():
        assert (place / "mine" / "thesis").is_file()
