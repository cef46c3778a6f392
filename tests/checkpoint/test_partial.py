"""An output in the making: held by one, kept for a resume, put in place by one rename."""

import threading
from pathlib import Path

import pytest

from soupkit.checkpoint.partial import PartialDirectory, partial_path
from soupkit.errors import StorageError, UsageError


@pytest.mark.parametrize("name", [".", "..", "/", "a/.."])
def test_a_target_without_a_name_of_its_own_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="no name of a directory"):
        partial_path(Path(name))


def test_what_was_written_is_kept_for_the_next_run(tmp_path: Path) -> None:
    with PartialDirectory(tmp_path / "out") as partial:
        assert partial.created
        (partial.path / "half").write_text("x")
    with PartialDirectory(tmp_path / "out") as partial:
        assert not partial.created
        assert (partial.path / "half").read_text() == "x"


def test_a_second_run_is_refused_while_the_first_goes_on(tmp_path: Path) -> None:
    with PartialDirectory(tmp_path / "out"), pytest.raises(StorageError) as caught:
        PartialDirectory(tmp_path / "out").__enter__()
    assert caught.value.where == str(tmp_path / "out") and "another run" in caught.value.what


def test_a_run_that_waits_gets_the_directory_that_the_first_leaves_and_not_its_output(tmp_path: Path) -> None:
    seen: list[tuple[bool, bool]] = []

    def second() -> None:
        with PartialDirectory(tmp_path / "out", wait=True) as partial:
            seen.append((partial.created, (tmp_path / "out" / "done").is_file()))

    with PartialDirectory(tmp_path / "out") as partial:
        waiting = threading.Thread(target=second)
        waiting.start()
        (partial.path / "done").write_text("")
        partial.publish()
    waiting.join()
    assert seen == [(True, True)]


def test_publishing_is_one_rename_without_a_trace(tmp_path: Path) -> None:
    with PartialDirectory(tmp_path / "deep" / "out") as partial:
        (partial.path / "a").write_text("1")
        partial.publish()
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["out"]
    assert [p.name for p in (tmp_path / "deep" / "out").iterdir()] == ["a"]


def test_something_in_the_way_is_an_error_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("")
    with PartialDirectory(tmp_path / "out") as partial:
        (partial.path / "new").write_text("")
        with pytest.raises(StorageError, match="cannot be put in place"):
            partial.publish()
        assert (tmp_path / "out" / "old").is_file()
        partial.publish(replace=True)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_clearing_keeps_the_lock_and_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").write_text("")
    with PartialDirectory(tmp_path / "out") as partial:
        (partial.path / "sub").mkdir()
        (partial.path / "sub" / "file").write_text("")
        (partial.path / "link").symlink_to(tmp_path / "mine")
        partial.clear()
        assert [p.name for p in partial.path.iterdir()] == ["lock"]
    assert (tmp_path / "mine" / "thesis").is_file()


def test_a_place_that_cannot_be_written_is_an_error_about_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError) as caught:
        PartialDirectory(tmp_path / "file" / "out").__enter__()
    assert "out.partial" in caught.value.where
