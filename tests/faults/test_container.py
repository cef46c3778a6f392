"""A container's limit of memory: the kernel kills what goes beyond it, and a merge stays far below the size of its
files."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

import soupkit
from tests.conftest import bytes_of, save
from tests.processes import environment

MIB = 1 << 20


@pytest.fixture
def group() -> Iterator[tuple[Path, str]]:
    """A control group of our own, and the name of the file that limits its memory."""
    for root, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        place = Path(root) / f"soupkit-test-{os.getpid()}"
        try:
            place.mkdir()
        except OSError:
            continue
        try:
            if (place / limit).exists():
                yield place, limit
                return
        finally:
            with suppress(OSError):
                place.rmdir()
    pytest.skip("no control group with a limit of memory can be made here")


def merge_in(group: tuple[Path, str], room: int, words: list[str], place: Path) -> int:
    """Run a merge in the group with `room` bytes, its page cache included; return its exit code."""
    directory, limit = group
    (directory / limit).write_text(str(room))
    enter = f'echo $$ > {directory / "cgroup.procs"} && exec "$@"'
    command = ["sh", "-c", enter, "sh", sys.executable, "-m", "soupkit", *words]
    return subprocess.run(command, cwd=place, env=environment(), capture_output=True, timeout=200).returncode


def test_a_merge_that_a_container_kills_is_finished_by_the_next(group: tuple[Path, str], tmp_path: Path) -> None:
    ingredients = []
    for i in range(3):
        generator = torch.Generator().manual_seed(i)
        state = {f"w{k}": torch.randn(4 * MIB, generator=generator).bfloat16() for k in range(20)}
        ingredients.append(save(tmp_path / f"in{i}", state))
    soupkit.merge(ingredients, tmp_path / "wanted")
    words = ["merge", *map(str, ingredients), "-o", "out", "--threads", "1", "--slab-size", "1MiB"]
    ended = []
    for room in (40 * MIB, 270 * MIB, 600 * MIB):  # the three files have 480 MiB, the soup 160
        ended.append(merge_in(group, room, words, tmp_path))
    assert set(ended) <= {0, -signal.SIGKILL}
    assert ended[0] == -signal.SIGKILL and ended[-1] == 0, ended
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "wanted")
    assert not list(tmp_path.glob("*.partial"))
