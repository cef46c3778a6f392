"""`soupkit run` as a process that is killed, stopped, beside another, or with trainings side by side."""

import json
import random
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import processes
from tests.conftest import TINY_MODEL
from tests.processes import Started, children, environment, gone

ROOT = {"model": TINY_MODEL, "data": {"shards": "digits:train"}, "samples": 128, "batch_size": 32, "lr": 0.001}
CHILD: dict[str, Any] = {"init": "${train.root}", "checkpoint_every": 32}
SECTIONS: dict[str, Any] = {
    "train": {"root": ROOT, "a": {**CHILD, "seed": 1}, "b": {**CHILD, "seed": 2, "lr": 0.002}},
    "soup": {
        "uniform": {"ingredients": ["${train.a}", "${train.b}"]},
        "greedy": {"ingredients": ["${train.a}", "${train.b}"], "search": "greedy", "task": "digits:val", "limit": 60},
    },
    "evaluate": {"refs": ["${train.a}", "${soup.uniform}", "${soup.greedy}"], "tasks": ["digits:test"], "limit": 60},
    "report": {},
}
STEPS = ["train.root", "train.a", "train.b", "soup.uniform", "soup.greedy", "evaluate", "report"]
Start = Callable[..., Started]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Start `soupkit run` on a recipe in a directory of its own."""

    def run(sections: dict[str, Any], *options: object, place: str = "one") -> Started:
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / "recipe.yaml").write_text(
            yaml.safe_dump({"version": 1, "name": "small", **sections}, sort_keys=False)
        )
        env = {**environment(), "XDG_CACHE_HOME": str(tmp_path / place / "cache")}
        arguments = ("run", "recipe.yaml", "-o", "out", "--workers", "0", "--json", *options)
        return processes.start(*arguments, cwd=tmp_path / place, env=env)

    return run


def results(out: Path) -> dict[str, Any]:
    """Everything that a run made, but for what tells the time."""
    made: dict[str, Any] = {}
    for path in sorted(p for p in out.rglob("*") if p.is_file()):
        name = str(path.relative_to(out))
        if path.suffix == ".json":
            made[name] = {k: v for k, v in json.loads(path.read_text()).items() if k != "seconds"}
        elif path.suffix == ".html":
            made[name] = re.sub(rb", in [\d,]+ s\.", b".", path.read_bytes())  # how long the search took
        elif path.suffix in (".safetensors", ".png"):
            made[name] = path.read_bytes()
    return made


def times(out: Path, steps: list[str]) -> dict[str, int]:
    """When the results of `steps` were made."""
    places = {"evaluate": "scores.json", "report": "report.html"}
    return {s: (out / places.get(s, s.replace(".", "/"))).stat().st_mtime_ns for s in steps}


def finished(out: Path) -> list[str]:
    try:
        return list(json.loads((out / "run.json").read_text())["steps"])
    except OSError:
        return []


def test_killed_at_any_moment_it_goes_on_with_what_is_not_finished(start: Start, tmp_path: Path) -> None:
    whole = start(SECTIONS, place="whole")
    began = time.monotonic()
    done = whole.wait()
    length = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    moments = random.Random()
    out, kills = tmp_path / "one" / "out", 0
    for _ in range(4):
        known = finished(out)
        before = times(out, known)
        going = start(SECTIONS)
        going.process.join(moments.uniform(0.15, 0.6) * length)
        kills += going.alive
        going.signal(signal.SIGKILL)
        going.wait()
        assert finished(out)[: len(known)] == known and times(out, known) == before
    last = start(SECTIONS).wait()
    assert last.returncode == 0, last.stderr
    assert kills and finished(out) == STEPS
    assert results(out) == results(tmp_path / "whole" / "out")
    statuses = {s["name"]: s["status"] for s in json.loads(start(SECTIONS).wait().stdout)["steps"]}
    assert statuses == dict.fromkeys(STEPS, "unchanged")


def wait_until(true: Callable[[], bool], seconds: float = 250) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)


def test_one_of_two_trainings_fails_the_other_ends_and_nothing_later_begins(start: Start, tmp_path: Path) -> None:
    a, b = ({**ROOT, "seed": seed} for seed in (1, 2))
    sections, out = {**SECTIONS, "train": {"a": a, "b": b}}, tmp_path / "one" / "out"
    going = start({**sections, "train": {"a": a, "b": {**b, "data": {"shards": "nowhere/{0..3}.tar"}}}}, "--jobs", 2)
    wait_until(lambda: (out / ".lock").exists())
    second = start(sections).wait()  # beside the first, in the same directory
    assert second.returncode == 1 and "another run works here" in second.stderr
    done = going.wait(280)
    assert done.returncode == 1 and "train.b failed" in done.stderr and "nowhere" in done.stderr
    assert "Traceback" not in done.stderr
    assert finished(out) == ["train.a"] and not (out / "soup").exists()
    alone = start({"train": {"a": a}}, place="two").wait()
    assert alone.returncode == 0, alone.stderr
    assert results(tmp_path / "two" / "out" / "train" / "a") == results(out / "train" / "a"), "as one after another"
    before = times(out, ["train.a"])
    mended = start(sections).wait()
    assert mended.returncode == 0, mended.stderr
    assert times(out, ["train.a"]) == before and finished(out)[-1] == "report"
    assert (out / "train" / "b.partial.old1").is_dir(), "what was begun with other settings is not thrown away"


def test_trainings_side_by_side_stop_together_go_on_and_do_not_outlive_their_run(start: Start, tmp_path: Path) -> None:
    long = {name: {**ROOT, "samples": 64_000, "checkpoint_every": 32, "seed": seed} for seed, name in enumerate("ab")}
    out = tmp_path / "one" / "out" / "train"
    going = start({"train": long}, "--jobs", 2)
    wait_until(lambda: all(any(out.glob(f"{name}.partial/checkpoints/*")) for name in "ab"))
    workers = children(going.pid)
    assert len(workers) == 2
    going.signal(signal.SIGTERM)
    done = going.wait(280)
    assert done.returncode == 130 and "the same command resumes" in done.stderr
    assert all(map(gone, workers))

    again = start({"train": long}, "--jobs", 2)
    wait_until(lambda: "a: going on after" in again.stderr and "b: going on after" in again.stderr)
    workers = children(again.pid)
    again.signal(signal.SIGKILL)
    wait_until(lambda: all(map(gone, workers)))
