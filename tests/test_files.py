"""Files that are written whole or not at all."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from soupkit.errors import StorageError
from soupkit.files import write_cached, write_whole


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
