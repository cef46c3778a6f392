"""An output in the making: held by one, kept for a resume, put in place by one rename."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from soupkit.checkpoint.partial import PartialDirectory, partial_path, sweep
from soupkit.errors import SoupkitError, StorageError, UsageError


@pytest.mark.parametrize("name", [".", "..", "/", "a/.."])
def test_a_target_without_a_name_of_its_own_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="no name of a directory"):
        partial_path(Path(name))


def test_what_was_written_is_kept_for_the_next_run(tmp_path: Path) -> None:
    with PartialDirectory(tmp_path / "out", "merge") as partial:
        assert partial.created
        (partial.path / "half").write_text("x")
    with PartialDirectory(tmp_path / "out", "merge") as partial:
        assert not partial.created
        assert (partial.path / "half").read_text() == "x"


def test_a_second_run_is_refused_while_the_first_goes_on(tmp_path: Path) -> None:
    with PartialDirectory(tmp_path / "out", "merge"), pytest.raises(StorageError) as caught:
        PartialDirectory(tmp_path / "out", "merge").__enter__()
    assert caught.value.where == str(tmp_path / "out") and "another run" in caught.value.what


def test_a_run_that_waits_gets_the_directory_that_the_first_leaves_and_not_its_output(tmp_path: Path) -> None:
    seen: list[tuple[bool, bool]] = []

    def second() -> None:
        with PartialDirectory(tmp_path / "out", "merge", wait=True) as partial:
            seen.append((partial.created, (tmp_path / "out" / "done").is_file()))

    with PartialDirectory(tmp_path / "out", "merge") as partial:
        waiting = threading.Thread(target=second)
        waiting.start()
        (partial.path / "done").write_text("")
        partial.publish()
    waiting.join()
    assert seen == [(True, True)]


def test_publishing_is_one_rename_without_a_trace(tmp_path: Path) -> None:
    with PartialDirectory(tmp_path / "deep" / "out", "merge") as partial:
        (partial.path / "a").write_text("1")
        partial.publish()
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["out"]
    assert [p.name for p in (tmp_path / "deep" / "out").iterdir()] == ["a"]


def test_something_in_the_way_is_an_error_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("")
    with PartialDirectory(tmp_path / "out", "merge") as partial:
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
    with PartialDirectory(tmp_path / "out", "merge") as partial:
        (partial.path / "sub").mkdir()
        (partial.path / "sub" / "file").write_text("")
        (partial.path / "link").symlink_to(tmp_path / "mine")
        partial.clear()
        assert [p.name for p in partial.path.iterdir()] == ["lock"]
    assert (tmp_path / "mine" / "thesis").is_file()


def test_a_place_that_cannot_be_written_is_an_error_about_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError) as caught:
        PartialDirectory(tmp_path / "file" / "out", "merge").__enter__()
    assert caught.value.where == str(tmp_path / "file" / "out")
    assert caught.value.what == f"cannot be written: {tmp_path / 'file'} is no directory"


@pytest.mark.parametrize("owner", ["train", "search"])
def test_the_directory_of_another_command_is_left_alone(tmp_path: Path, owner: str) -> None:
    with PartialDirectory(tmp_path / "out", owner) as partial:
        (partial.path / "half").write_text("x")
    with pytest.raises(StorageError, match=f"unfinished output of `soupkit {owner}`") as caught:
        PartialDirectory(tmp_path / "out", "merge").__enter__()
    assert caught.value.where == str(tmp_path / "out.partial") and caught.value.hint
    with PartialDirectory(tmp_path / "out", owner) as partial:
        assert (partial.path / "half").read_text() == "x"


def test_what_soupkit_has_not_made_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis").write_text("mine")
    with pytest.raises(StorageError, match="'thesis', which `soupkit merge` has not written"):
        PartialDirectory(tmp_path / "out", "merge").__enter__()
    assert [p.name for p in (tmp_path / "out.partial").iterdir()] == ["thesis"]
    (tmp_path / "out.partial" / "lock").write_text("of another program")
    with pytest.raises(StorageError, match="lock that is not soupkit's"):
        PartialDirectory(tmp_path / "out", "merge").__enter__()
    assert (tmp_path / "out.partial" / "lock").read_text() == "of another program"


def test_one_of_an_earlier_soupkit_is_known_by_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    for name in ("lock", "journal"):
        (tmp_path / "out.partial" / name).touch()
    with PartialDirectory(tmp_path / "out", "merge", recognises=lambda path: (path / "journal").is_file()) as partial:
        assert not partial.created


def test_an_empty_directory_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    with PartialDirectory(tmp_path / "out", "merge") as partial:
        partial.publish()
    assert (tmp_path / "out").is_dir()


def test_a_part_of_the_directory_can_be_the_output(tmp_path: Path) -> None:
    with PartialDirectory(tmp_path / "out", "search") as partial:
        (partial.path / "soup").mkdir()
        (partial.path / "journal").touch()
        partial.publish(partial.path / "soup")
    assert [p.name for p in tmp_path.iterdir()] == ["out"] and not list((tmp_path / "out").iterdir())


def link(target: Path) -> Path:
    target.symlink_to(target.with_name("elsewhere"))
    return target


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (lambda place: link(place / "out"), "is a link"),
        (lambda place: place / os.fsdecode(b"caf\xe9"), "no UTF-8"),
        (lambda place: place / ("x" * 240), "too long a name"),
        (lambda place: Path("/proc"), "mount point"),
    ],
)
def test_where_nothing_can_be_put_in_the_end_is_said_before_anything_is_made(
    tmp_path: Path, target: Callable[[Path], Path], said: str
) -> None:
    place = target(tmp_path)
    before = list(tmp_path.iterdir())
    with pytest.raises(SoupkitError, match=said) as caught:
        PartialDirectory(place, "merge").__enter__()
    assert caught.value.where.isprintable() and caught.value.hint and list(tmp_path.iterdir()) == before


def test_an_output_that_makes_way_is_found_after_a_kill_and_goes_when_the_new_one_is_there(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with PartialDirectory(tmp_path / "out", "merge") as partial:
        (partial.path / "new").touch()
        renamed: list[Path] = []

        def killed(self: Path, goal: Path) -> Path:
            if renamed:
                raise KeyboardInterrupt
            renamed.append(self)
            os.rename(self, goal)  # noqa: PTH104 - what is patched is Path's
            return goal

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "rename", killed)
            with pytest.raises(KeyboardInterrupt):
                partial.publish(replace=True)
    assert (tmp_path / "out.replaced.partial" / "output" / "old").is_file() and not (tmp_path / "out").exists()
    with PartialDirectory(tmp_path / "out", "merge") as partial:
        assert (tmp_path / "out.replaced.partial" / "output" / "old").is_file()
        partial.publish(replace=True)
    assert [p.name for p in tmp_path.iterdir()] == ["out"] and (tmp_path / "out" / "new").is_file()


def test_what_is_called_like_one_that_makes_way_is_left_alone(tmp_path: Path) -> None:
    for name in ("out", "out.replaced.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").touch()
    with PartialDirectory(tmp_path / "out", "merge") as partial, pytest.raises(StorageError, match="in the way"):
        partial.publish(replace=True)
    sweep(tmp_path / "out")
    assert (tmp_path / "out" / "mine").is_file() and (tmp_path / "out.replaced.partial" / "mine").is_file()


def test_sweeping_removes_what_a_kill_after_the_last_rename_leaves_and_nothing_of_anybody_else(tmp_path: Path) -> None:
    with PartialDirectory(tmp_path / "out", "search") as partial:
        (partial.path / "soup").mkdir()
        (partial.path / "soup" / "lock").write_text("soupkit search\n")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("soupkit.checkpoint.partial.remove_lock", lambda directory: None)
            patch.setattr(PartialDirectory, "discard", lambda self: None)
            partial.publish(partial.path / "soup")
    (tmp_path / "out" / "soup.json").touch()
    sweep(tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["soup.json"]
    (tmp_path / "out" / "lock").write_text("of another program")
    with PartialDirectory(tmp_path / "out", "search"):
        pass
    sweep(tmp_path / "out")
    assert (tmp_path / "out" / "lock").is_file() and (tmp_path / "out.partial").is_dir(), "begun, and not over"
