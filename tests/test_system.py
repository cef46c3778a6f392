"""Systems that lack what Linux has: the same soup, by other ways. What is hidden here is not there on them."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from soupkit import system
from soupkit.merging import merge
from tests.conftest import bytes_of, environment, random_state, save

# Hides modules, functions and flags once those that need them to be imported have them, then merges from the command.
PROGRAM = """
import os, shutil, signal, sys, types
import huggingface_hub, numpy, open_clip, pydantic, rich, safetensors.torch, torch, transformers, typer, xxhash
hidden = sys.argv.pop(1)
macos = "posix_fallocate posix_fadvise sched_getaffinity O_DIRECT memfd_create RWF_NOWAIT"
windows = (
    "preadv pwritev pread pwrite fork killpg sysconf statvfs getuid "
    "O_DIRECTORY O_CLOEXEC O_NOFOLLOW O_NONBLOCK"
)
names = macos if hidden == "macos" else macos + " " + windows
for name in names.split():
    delattr(os, name)
for name in ("sigtimedwait",) + (("SIGKILL", "pthread_sigmask") if hidden == "windows" else ()):
    delattr(signal, name)
shutil.disk_usage = lambda path: types.SimpleNamespace(free=1 << 40)
if hidden == "windows":
    locked = []
    sys.modules["fcntl"] = sys.modules["resource"] = None
    sys.modules["msvcrt"] = types.SimpleNamespace(LK_NBLCK=2, locking=lambda *about: locked.append(about))
from soupkit.__main__ import main
try:
    main()
finally:
    assert hidden != "windows" or locked
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("pair")
    return [save(root / str(i), random_state(i)) for i in range(2)]


@pytest.mark.parametrize("hidden", ["macos", "windows"])
def test_a_soup_without_what_another_system_lacks(hidden: str, pair: list[Path], tmp_path: Path) -> None:
    merge(pair, tmp_path / "here")
    command = [sys.executable, "-c", PROGRAM, hidden, "merge", *map(str, pair), "-o", str(tmp_path / "there")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert bytes_of(tmp_path / "there") == bytes_of(tmp_path / "here") and (tmp_path / "here" / "soup.json").is_file()
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("missing", [(), ("preadv",), ("preadv", "pread", "pwrite")])
def test_reads_and_writes_at_a_position(
    missing: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in missing:
        monkeypatch.delattr(f"os.{name}")
    with (tmp_path / "file").open("w+b") as file:
        blocks = [bytes([i]) * 1000 for i in range(40)]

        def work(i: int) -> None:
            system.write_at(file.fileno(), blocks[i], i * 1000)
            buffer = bytearray(1000)
            assert system.read_at(file.fileno(), memoryview(buffer), i * 1000) == 1000
            assert bytes(buffer) == blocks[i]

        threads = [threading.Thread(target=work, args=(i,)) for i in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (tmp_path / "file").read_bytes() == b"".join(blocks)
        assert system.bytes_at(file.fileno(), 10, 39_995) == blocks[39][:5]
        assert system.read_at(file.fileno(), memoryview(bytearray(4)), 40_000) == 0


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as one, (tmp_path / "lock").open("w") as other:
        system.lock(one.fileno())
        with pytest.raises(BlockingIOError):
            system.lock(other.fileno(), wait=False)


def test_room_is_reserved_with_and_without_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(2):
        with (tmp_path / f"{i}").open("w+b") as file:
            system.reserve(file.fileno(), 12_345)
        assert (tmp_path / f"{i}").stat().st_size == 12_345
        monkeypatch.delattr("os.posix_fallocate", raising=False)


def test_cores_are_counted_where_no_set_of_them_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert system.cores() >= 1
    monkeypatch.delattr("os.sched_getaffinity")
    assert system.cores() >= 1
    assert system.memory_bytes("SC_PHYS_PAGES") is not None
    assert system.memory_bytes("SC_NOTHING") is None
