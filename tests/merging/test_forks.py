"""Forks share the jobs, bring back answers and errors, and never outlive the process that made them."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from soupkit.errors import CheckpointError, SoupkitError
from soupkit.merging.forks import run_in_forks
from tests.conftest import bytes_of, random_state, save


def worker_of(do: Callable[[int], Any]) -> Callable[[], Any]:
    @contextmanager
    def worker() -> Iterator[Callable[[int], Any]]:
        yield do

    return worker


def run(count: int, jobs: int, do: Callable[[int], Any]) -> dict[int, Any]:
    answers: dict[int, Any] = {}
    seen: Counter[int] = Counter()

    def collect(job: int, answer: Any) -> None:
        seen[job] += 1
        answers[job] = answer

    run_in_forks(count, jobs, worker_of(do), collect)
    assert all(n == 1 for n in seen.values())
    return answers


def children() -> set[str]:
    """The processes that this one has to wait for, ended ones included."""
    return {pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


def slow_square(i: int) -> tuple[int, int]:
    time.sleep(0.002)
    return i * i, os.getpid()


@pytest.mark.parametrize(("count", "jobs"), [(1, 5), (3, 60), (4, 2), (2, 0)])
def test_each_job_is_done_once_and_the_work_is_shared(count: int, jobs: int) -> None:
    answers = run(count, jobs, slow_square)
    assert {i: a for i, (a, _) in answers.items()} == {i: i * i for i in range(jobs)}
    if jobs == 60:
        assert len({pid for _, pid in answers.values()}) == count


def in_forks_only(act: Callable[[], Any]) -> Callable[[int], Any]:
    """Do `act` in the forks; the first process waits for it."""
    first = os.getpid()

    def do(i: int) -> Any:
        if os.getpid() != first:
            return act()
        time.sleep(0.02)
        return i

    return do


def raises_a_known_error() -> None:
    raise CheckpointError("is truncated", "a.safetensors", "copy it again")


def raises_what_cannot_be_sent() -> None:
    raise type("Local", (Exception,), {})("oh")


def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("act", "error", "text"),
    [
        (raises_a_known_error, CheckpointError, "a.safetensors: is truncated"),
        (raises_what_cannot_be_sent, SoupkitError, "unexpected Local: oh"),
        (dies, SoupkitError, "ended by signal 9"),
    ],
)
def test_what_goes_wrong_in_a_fork_is_raised_here(act: Callable[[], None], error: type[Exception], text: str) -> None:
    before = children()
    with pytest.raises(error, match=text):
        run(3, 500, in_forks_only(act))
    assert children() == before


def test_an_error_here_ends_the_forks() -> None:
    first = os.getpid()

    def do(i: int) -> int:
        if os.getpid() != first:
            time.sleep(600)
        raise KeyboardInterrupt

    before = children()
    with pytest.raises(KeyboardInterrupt):
        run(3, 500, do)
    assert children() == before


MERGE = """
import sys
from soupkit.merging import RunOptions, engine, merge
engine.FORK_BYTES = 0
merge(sys.argv[2:], sys.argv[1], options=RunOptions(device="cpu", threads=2, slab_bytes=1))
"""


def test_a_merge_in_forks_that_is_killed_leaves_none_and_goes_on(tmp_path: Path) -> None:
    import torch

    refs = []
    for i in range(2):
        state = random_state(i, torch.float32)
        for j in range(6):
            state[f"visual.big.{j}"] = torch.full((5 << 20,), float(i + j))
        refs.append(save(tmp_path / f"{i}", state))
    command = [sys.executable, "-c", MERGE]
    subprocess.run([*command, tmp_path / "whole", *refs], check=True)
    out = tmp_path / "out"
    journal = tmp_path / "out.partial" / "journal-0.jsonl"
    started = subprocess.Popen([*command, out, *refs])
    while started.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < 3):
        time.sleep(0.001)
    family = [int(p) for p in Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()]
    started.kill()
    assert started.wait() == -signal.SIGKILL, "met at work"
    assert len(family) == 1
    until = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in family):
        assert time.monotonic() < until, "the fork lives on"
        time.sleep(0.01)
    assert not out.exists()
    subprocess.run([*command, out, *refs], check=True)
    assert bytes_of(out)["open_clip_model.safetensors"] == bytes_of(tmp_path / "whole")["open_clip_model.safetensors"]
