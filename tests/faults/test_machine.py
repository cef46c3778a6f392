"""An odd machine, few descriptors, little memory, files of many gigabytes: what is written is what is written anywhere,
or the error says what to do, and nothing is written."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import soupkit
from soupkit.checkpoint.reference import open_checkpoint
from soupkit.checkpoint.writer import TensorWriter, lay_out
from soupkit.cli.errors import report
from tests.conftest import bytes_of, random_state, save
from tests.faults.machine import limited, modes, run_oddly
from tests.kills.commands import COMMANDS
from tests.kills.points import Place, contents, differences, restore, run_again

MIB = 1 << 20


@pytest.mark.parametrize("name", ["merge", "evaluate", "train", "push --folder, over another"])
def test_an_odd_machine_changes_no_byte(name: str, tmp_path: Path) -> None:
    """Signals, short reads and writes, a clock that jumps, 64 descriptors; and a group's umask is respected."""
    place = Place(tmp_path / "root")
    place.root.mkdir()
    words = COMMANDS[name](place.root)
    place.environments()  # makes a directory
    known = set(place.root.rglob("*"))
    place.keep_untouched()
    run_again(words, place)
    wanted = contents(place.root)
    restore(place, place.untouched)
    done = run_oddly(words, place)
    assert done.returncode == 0, done.stderr
    assert not differences(contents(place.root), wanted)
    wrong = {n: mode for n, mode in modes(place.root, known).items() if mode != expected(place.root / n)}
    assert not wrong


def expected(path: Path) -> str:
    return "775" if path.is_dir() else "664"


@pytest.fixture(scope="module")
def sixteen(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Ingredients of two shards each."""
    root = tmp_path_factory.mktemp("sixteen")
    two = [save(root / f"whole{i}", random_state(i)) for i in range(2)]
    for i in range(16):
        soupkit.merge(two, root / f"in{i}", weights=[i + 1, 1], max_shard_bytes=410_000)
    assert len(list((root / "in0").glob("*.safetensors"))) == 2
    return [root / f"in{i}" for i in range(16)]


def test_many_shards_are_merged_where_more_files_may_be_opened_and_refused_in_words_where_not(
    sixteen: list[Path], tmp_path: Path
) -> None:
    soupkit.merge(sixteen, tmp_path / "wanted")
    few = ["merge", *sixteen, "-o", tmp_path / "few"]
    done = limited(few, "RLIMIT_NOFILE", (30, 30))
    assert done.returncode == 1 and "Too many open files" in done.stderr and "ulimit -n" in done.stderr
    assert not list(tmp_path.glob("few*"))
    done = limited(few, "RLIMIT_NOFILE", (30, 400))
    assert done.returncode == 0, done.stderr
    assert bytes_of(tmp_path / "few") == bytes_of(tmp_path / "wanted")


@pytest.mark.parametrize("more", [0, 12 * MIB])
def test_little_memory_is_said_and_leaves_what_another_run_finishes(more: int, tmp_path: Path) -> None:
    place = Place(tmp_path / "root")
    place.root.mkdir()
    words = COMMANDS["merge"](place.root)
    place.keep_untouched()
    run_again(words, place)
    wanted = contents(place.root)
    restore(place, place.untouched)
    done = limited(words, "RLIMIT_AS", more, place)
    assert done.returncode == 1 and "error: soupkit merge: the memory is used up" in done.stderr, done.stderr
    assert "--slab-size" in done.stderr and "defect" not in done.stderr
    run_again(words, place)
    assert not differences(contents(place.root), wanted)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EIO, "Input/output error"), ["soupkit merge: Input/output error", "the device failed"]),
        (OSError(errno.EIO, "Input/output error", "a/b"), ["a/b: Input/output error", "the device failed"]),
        (OSError(errno.EROFS, "Read-only file system", "a"), ["a: Read-only", "choose another place"]),
        (OSError(errno.EMFILE, "Too many open files"), ["soupkit merge: Too many", "ulimit -n"]),
        (MemoryError(), ["the memory is used up", "--slab-size"]),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), ["the memory is used up"]),
        (RuntimeError("can't start new thread"), ["the memory is used up", "--threads"]),
        (RuntimeError("shapes differ"), ["unexpected RuntimeError: shapes differ", "defect"]),
        (OSError(errno.EBADF, "Bad file descriptor"), ["unexpected OSError", "defect"]),
    ],
    ids=str,
)
def test_what_the_machine_is_to_blame_for_is_no_defect(
    error: Exception, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(error, "soupkit merge") == 1
    said = capsys.readouterr().err
    assert all(word in said for word in words), said
    assert ("defect" in said) == ("defect" in words)


LARGE = (1 << 32) + 12_345  # bytes; no 32-bit number holds them


def sparse(path: Path, elements: int, marks: dict[int, float]) -> Path:
    """Write an open_clip directory with one float16 tensor of which all but the `marks` is a hole."""
    small = torch.zeros(1, dtype=torch.float16)
    path.mkdir()
    layout = lay_out({"w": ("F16", (elements,))}, {"format": "pt"}, None)
    with (path / "open_clip_model.safetensors").open("wb") as file:
        file.write(layout.files[0].header)
        for place, value in marks.items():
            file.seek(len(layout.files[0].header) + 2 * place)
            file.write(small.fill_(value).numpy().tobytes())
        file.truncate(layout.size)
    return path


def test_bytes_beyond_two_and_four_gib_are_read_where_they_are(tmp_path: Path) -> None:
    elements = LARGE // 2
    marks = {i: float(n + 1) for n, i in enumerate((0, (1 << 30) - 1, 1 << 30, (1 << 31) - 1, 1 << 31, elements - 1))}
    with open_checkpoint(str(sparse(tmp_path / "large", elements, marks))) as checkpoint:
        assert checkpoint.tensors["w"].nbytes == 2 * elements > 1 << 32
        view = checkpoint["w"]
        for place, value in marks.items():
            buffer = np.zeros(2, dtype=np.uint8)
            checkpoint.read_into("w", 2 * place, buffer)
            assert buffer.view(np.float16)[0] == value == view[place]


def test_pieces_beyond_two_and_four_gib_are_written_where_they_belong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", lambda descriptor, offset, size: os.ftruncate(descriptor, size))
    layout = lay_out({"a": ("U8", (LARGE,)), "b": ("U8", (7,))}, {}, None)
    writer = TensorWriter(tmp_path, layout)
    writer.open(create=True)
    pieces = {("a", 1 << 31): 3, ("a", (1 << 32) - 2): 5, ("b", 0): 7}
    for (name, start), value in pieces.items():
        writer.write(name, start, np.full(4, value, dtype=np.uint8))
    writer.finish()
    writer.close()
    path = tmp_path / layout.files[0].name
    assert path.stat().st_size == layout.size > 1 << 32 and path.stat().st_blocks * 512 < MIB
    with open_checkpoint(str(path)) as checkpoint:
        for (name, start), value in pieces.items():
            buffer = np.zeros(4, dtype=np.uint8)
            checkpoint.read_into(name, start, buffer)
            assert set(buffer) == {value}
