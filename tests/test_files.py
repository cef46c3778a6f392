"""Files that are written whole or not at all."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from soupkit.errors import StorageError
from soupkit.files import write_cached, write_whole
from soupkit.system import bytes_at, write_at


def test_what_a_killed_process_left_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "a.json.partial").write_text("half of somethi")
    write_whole(tmp_path / "a.json", "x")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.json", "x")]


def test_what_fails_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("before")

    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a", fail)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a", "before")]


def test_of_many_writers_each_gives_a_whole_file(tmp_path: Path) -> None:
    contents = [bytes([i]) * 100_000 for i in range(8)]
    seen: list[bytes] = []

    def write(content: bytes) -> None:
        for _ in range(20):
            write_whole(tmp_path / "a", content)
            seen.append((tmp_path / "a").read_bytes())

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(seen) == 160 and set(seen) <= set(contents) and [p.name for p in tmp_path.iterdir()] == ["a"]


OBSTACLES: dict[str, Callable[[Path], None]] = {
    "directory": lambda path: path.mkdir(),
    "link": lambda path: path.symlink_to("mine"),
    "pipe": lambda path: os.mkfifo(path),
}


@pytest.mark.parametrize("make", OBSTACLES.values(), ids=OBSTACLES)
def test_what_is_in_the_way_is_said_and_left_alone(tmp_path: Path, make: Callable[[Path], None]) -> None:
    (tmp_path / "mine").write_text("mine")
    make(tmp_path / "a.partial")
    with pytest.raises(StorageError, match="cannot be written") as caught:
        write_whole(tmp_path / "a", "x")
    assert caught.value.where == str(tmp_path / "a")
    write_cached(tmp_path / "a", "x")  # no error: nothing is kept
    assert (tmp_path / "mine").read_text() == "mine" and (tmp_path / "a.partial").exists()


def test_one_call_that_reads_or_writes_less_is_followed_by_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pread, pwrite = os.pread, os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, view, offset: pwrite(file, view[:7], offset))
    monkeypatch.setattr(os, "pread", lambda file, size, offset: pread(file, min(size, 5), offset))
    with (tmp_path / "a").open("w+b") as file:
        write_at(file.fileno(), bytes(range(50)), 3)
        write_at(file.fileno(), b"", 60)
        assert bytes_at(file.fileno(), 50, 3) == bytes(range(50))
        assert bytes_at(file.fileno(), 100, 40) == bytes(range(37, 50)) and bytes_at(file.fileno(), 9, 53) == b""


def test_a_disk_that_takes_nothing_is_an_error_and_no_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", lambda file, view, offset: 0)
    with (tmp_path / "a").open("wb") as file, pytest.raises(OSError, match="Input/output"):
        write_at(file.fileno(), b"abc", 0)
