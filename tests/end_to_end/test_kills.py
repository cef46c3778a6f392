"""Merges that are killed, interrupted or starved half way, and several at once: real processes, real signals."""

import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import bytes_of
from tests.end_to_end.conftest import assert_error
from tests.processes import Started, children, gone, soupkit, start, start_torchrun

SMALL_SLABS = ["--slab-size", "1MiB", "--device", "cpu"]


def start_merge(refs: list[Path], out: Path) -> Started:
    return start("merge", *refs, "-o", out, *SMALL_SLABS, "--threads", 1)


def tasks_done(out: Path) -> int:
    """Slabs that the journals of an unfinished output name."""
    journals = out.with_name(out.name + ".partial").glob("journal-*.jsonl")
    return sum(max(0, j.read_bytes().count(b"\n") - 1) for j in journals)


def wait_for_tasks(out: Path, count: int, running: Started) -> None:
    """Wait until `count` slabs are in the journals, or the process has ended."""
    while running.alive and not out.exists() and tasks_done(out) < count:
        time.sleep(0.002)


def stop_half_way(out: Path, launch: Callable[[], Started], ranks: Callable[[Started], list[int]]) -> Started:
    """Start a merge and let its processes stand still half way. Where the test's own process was kept from running for
    as long as the merge took, try again."""
    for _ in range(5):
        running = launch()
        wait_for_tasks(out, 4, running)
        for pid in ranks(running):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        if not out.exists() and 4 <= tasks_done(out) < 24 and running.alive:
            return running
        for pid in ranks(running):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        running.wait()
        shutil.rmtree(out, ignore_errors=True)
    raise AssertionError("never met half way")


def half_way(refs: list[Path], out: Path, act: Callable[[Started], None]) -> subprocess.CompletedProcess[str]:
    """Start a merge, do something to it while it stands still half way, and wait for its end."""
    running = stop_half_way(out, lambda: start_merge(refs, out), lambda running: [running.pid])
    act(running)
    running.signal(signal.SIGCONT)
    return running.wait()


def looks_unfinished(out: Path, whole: dict[str, bytes]) -> bool:
    """Whether nothing beside `out` could be taken for a whole soup before it is one: the header comes last."""
    weights = out.with_name(out.name + ".partial") / "open_clip_model.safetensors"
    if not weights.exists() or weights.open("rb").read(8) in (b"", bytes(8)):
        return True
    return weights.read_bytes() == whole[weights.name]


@pytest.fixture(scope="module")
def duration(large: list[Path], whole: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> float:
    """Seconds that a merge takes from the start of its process to its end."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    soupkit("--version")  # what all processes are forked from has started
    started = time.monotonic()
    assert start_merge(large, out).wait().returncode == 0
    took = time.monotonic() - started
    assert bytes_of(out) == whole
    return took


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_merge_resumes_to_the_same_bytes(
    large: list[Path],
    inputs: list[dict[str, bytes]],
    whole: dict[str, bytes],
    duration: float,
    tmp_path: Path,
    seed: int,
) -> None:
    """Killed at any moment from the process's start to its end, three times in a row."""
    out = tmp_path / "out"
    rng = random.Random(seed)
    for _ in range(3):
        running = start_merge(large, out)
        time.sleep(rng.random() * duration)
        running.signal(signal.SIGKILL)
        running.wait()
        assert out.exists() or looks_unfinished(out, whole)
    done = soupkit("merge", *large, "-o", out, *SMALL_SLABS)
    assert done.returncode == 0, done.stderr
    assert bytes_of(out) == whole
    assert [bytes_of(p) for p in large] == inputs
    assert not out.with_name("out.partial").exists()


def test_ctrl_c_says_how_to_go_on_and_the_rest_is_resumed(
    large: list[Path], whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = half_way(large, out, lambda running: running.signal(signal.SIGINT))
    assert_error(done, 130, "interrupted", "resumes")
    done = soupkit("merge", *large, "-o", out, *SMALL_SLABS)
    assert done.returncode == 0 and "resuming" in done.stderr, done.stderr
    assert bytes_of(out) == whole


def test_an_unfinished_output_of_other_inputs_is_refused_until_fresh(large: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    half_way(large, out, lambda running: running.signal(signal.SIGKILL))
    assert_error(soupkit("merge", *large[:2], "-o", out), 1, "unfinished", "--fresh")
    assert soupkit("merge", *large[:2], "-o", out, "--fresh").returncode == 0


def test_written_slabs_that_were_damaged_are_made_again(
    large: list[Path], whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    half_way(large, out, lambda running: running.signal(signal.SIGKILL))
    partial = out.with_name("out.partial") / "open_clip_model.safetensors"
    with partial.open("r+b") as file:  # what a power cut may leave: the journal's line, but not the data
        file.seek(9000)
        file.write(bytes(4_000_000))
    assert soupkit("merge", *large, "-o", out, *SMALL_SLABS).returncode == 0
    assert bytes_of(out) == whole


def test_writes_that_fail_half_way_leave_what_resumes(
    large: list[Path], whole: dict[str, bytes], tmp_path: Path
) -> None:
    """The system refuses to write beyond 1 MiB of a file, as a quota would, once some of it is written."""
    out = tmp_path / "out"

    def starve(running: Started) -> None:
        resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))

    assert_error(half_way(large, out, starve), 1, "cannot be written: File too large")
    assert not out.exists()
    done = soupkit("merge", *large, "-o", out, *SMALL_SLABS)
    assert done.returncode == 0 and "resuming" in done.stderr, done.stderr
    assert bytes_of(out) == whole


def test_an_ingredient_that_is_cut_short_half_way_is_an_error_and_nothing_is_left(
    large: list[Path], tmp_path: Path
) -> None:
    shutil.copytree(large[2], tmp_path / "cut")
    out, weights = tmp_path / "out", tmp_path / "cut" / "open_clip_model.safetensors"
    done = half_way([*large[:2], weights.parent], out, lambda _: os.truncate(weights, 1 << 20))
    assert_error(done, 1, "cut short while it was read", "/cut/", "tensor")
    assert not out.exists() and not out.with_name("out.partial").exists()


def test_two_merges_into_one_output_are_not_mixed(large: list[Path], whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    both = [start_merge(large, out) for _ in range(2)]
    done = [running.wait() for running in both]
    codes = sorted(d.returncode for d in done)
    assert codes in ([0, 0], [0, 1]), [d.stderr for d in done]
    if codes == [0, 1]:
        assert any("another run" in d.stderr for d in done)
    assert bytes_of(out) == whole


def kill_all(running: Started) -> None:
    """End `torchrun` and every rank at once, as a power cut or a scheduler does."""
    pids = [running.pid, *children(running.pid)]
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    running.wait()
    while not all(gone(pid) for pid in pids):
        time.sleep(0.01)


def test_a_merge_under_torchrun_that_is_killed_resumes_to_the_same_bytes(
    large: list[Path], inputs: list[dict[str, bytes]], whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    rng = random.Random()
    running = start_torchrun(2, "merge", *large, "-o", out, *SMALL_SLABS, "--threads", 1)
    wait_for_tasks(out, rng.randrange(1, 12), running)
    time.sleep(rng.random() * 0.03)
    kill_all(running)
    assert out.exists() or looks_unfinished(out, whole)
    done = start_torchrun(2, "merge", *large, "-o", out, *SMALL_SLABS).wait()
    assert done.returncode == 0 and ("resuming" in done.stderr or "already" in done.stderr), done.stderr
    assert bytes_of(out) == whole
    assert [bytes_of(p) for p in large] == inputs
    assert not out.with_name("out.partial").exists()


def test_a_rank_that_is_killed_ends_all_of_them_and_one_process_goes_on(
    large: list[Path], whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ["merge", *large, "-o", out, *SMALL_SLABS, "--threads", 1]
    running = stop_half_way(out, lambda: start_torchrun(2, *command), lambda running: children(running.pid))
    killed, other = random.sample(children(running.pid), 2)
    os.kill(killed, signal.SIGKILL)
    os.kill(other, signal.SIGCONT)
    done = running.wait()
    assert done.returncode != 0 and not out.exists(), done.stderr
    assert "defect" not in done.stderr
    done = soupkit("merge", *large, "-o", out, *SMALL_SLABS)
    assert done.returncode == 0 and "resuming" in done.stderr, done.stderr
    assert bytes_of(out) == whole
