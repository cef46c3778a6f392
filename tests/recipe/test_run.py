"""`soupkit run`: the order of steps, what is skipped, what is refused, and what stays after a failure."""

import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from soupkit.errors import CheckpointError, StorageError, UsageError
from soupkit.recipe.graph import read_recipe
from soupkit.recipe.run import RunResult, run_recipe
from tests.conftest import TINY_MODEL
from tests.processes import soupkit

Write = Callable[[dict[str, Any]], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def recipe(sections: dict[str, Any]) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({"version": 1, "name": "small", **sections}, sort_keys=False))
        return path

    return recipe


def soups(places: list[Path]) -> dict[str, Any]:
    a, b = map(str, places[1:])
    return {
        "evaluate": {"refs": [a, "${soup.two}"], "tasks": ["digits:val"], "limit": 20},
        "soup": {
            "two": {"ingredients": ["${soup.one}", b], "method": "uniform"},
            "one": {"ingredients": [a, b], "weight": [2, 1]},
        },
        "report": {},
    }


def statuses(result: RunResult) -> dict[str, str]:
    return {s.name: s.status for s in result.steps}


def test_steps_run_in_order_and_only_what_changed_runs_again(
    write: Write, tiny_clips: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sections, out = soups(tiny_clips), tmp_path / "out"
    assert set(statuses(run_recipe(write(sections), out, dry_run=True)).values()) == {"planned"} and not out.exists()
    part = run_recipe(write(sections), out, until="soup.one")
    assert statuses(part) == {"soup.one": "done"}
    whole = run_recipe(write(sections), out)
    assert [s.name for s in whole.steps] == ["soup.one", "soup.two", "evaluate", "report"]
    assert [s.status for s in whole.steps] == ["unchanged", "done", "done", "done"]
    told = json.loads((out / "soup" / "two" / "soup.json").read_text())
    assert told["ingredients"][0]["ref"] == str(out / "soup" / "one")
    assert {s["ref"] for s in json.loads((out / "scores.json").read_text())["scores"]} == {
        str(tiny_clips[1]), str(out / "soup" / "two"),
    }  # fmt: skip
    assert "<html" in (out / "report.html").read_text().lower()
    assert set(statuses(run_recipe(write(sections), out)).values()) == {"unchanged"}
    out = out.rename(tmp_path / "elsewhere")
    assert set(statuses(run_recipe(write(sections), out)).values()) == {"unchanged"}, "a run may be moved"

    sections["soup"]["one"]["weight"] = [1, 1]
    assert set(statuses(run_recipe(write(sections), out)).values()) == {"done"}
    sections["evaluate"]["limit"] = 10
    again = statuses(run_recipe(write(sections), out))
    assert again == {"soup.one": "unchanged", "soup.two": "unchanged", "evaluate": "done", "report": "done"}


def test_runs_are_trained_before_the_soups_made_of_them(write: Write, tmp_path: Path) -> None:
    common = {"model": TINY_MODEL, "data": {"shards": "digits:train"}, "samples": 64, "batch_size": 32, "lr": 0.001}
    sections: dict[str, Any] = {
        "soup": {"all": {"ingredients": ["${train.b}", "${train.a}"]}},
        "train": {"b": {"init": "${train.a}", "seed": 1}, "a": common},
    }
    first = run_recipe(write(sections), tmp_path / "out")
    assert statuses(first) == {"train.a": "done", "train.b": "done", "soup.all": "done"}
    sections["train"]["b"]["seed"] = 2
    sections["train"]["b"]["log_every"] = 32  # does not decide what a run is
    again = run_recipe(write(sections), tmp_path / "out")
    assert statuses(again) == {"train.a": "unchanged", "train.b": "done", "soup.all": "done"}
    assert (tmp_path / "out" / "train" / "b.old1").is_dir()


def test_a_step_that_fails_stops_later_ones_and_keeps_the_rest(
    write: Write, tiny_clips: list[Path], tmp_path: Path
) -> None:
    sections = soups(tiny_clips)
    sections["soup"]["two"]["ingredients"][1] = str(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="does not exist"):
        run_recipe(write(sections), tmp_path / "out")
    assert (tmp_path / "out" / "soup" / "one" / "soup.json").is_file()
    assert not (tmp_path / "out" / "scores.json").exists()
    sections["soup"]["two"]["ingredients"][1] = str(tiny_clips[2])
    mended = run_recipe(write(sections), tmp_path / "out", until="soup.two")
    assert statuses(mended) == {"soup.one": "unchanged", "soup.two": "done"}


def test_two_runs_in_one_directory_are_refused(write: Write, tiny_clips: list[Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match="another run works here"):
            run_recipe(write(soups(tiny_clips)), tmp_path / "out")


@pytest.mark.parametrize(
    ("sections", "what"),
    [
        ({"soup": {"a": {"ingredients": ["${soup.b}", "x"]}, "b": {"ingredients": ["${soup.a}", "x"]}}}, "each other"),
        ({"soup": {"a": {"ingredients": ["${soup.z}", "x"]}}}, "names no step"),
        ({"soup": {"a": {"ingredients": ["x"], "mehtod": "uniform"}}}, "no key 'mehtod'"),
        ({"soups": {}}, "no section 'soups'"),
        ({"train": {"a": {"init": "${train.b}", "lr": 1}}}, "no run here"),
        ({"soup": {"../a": {"ingredients": ["x"]}}}, "no name for a soup"),
        ({"version": 2, "soup": {}}, "version 2"),
        ({}, "has no step"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused_with_its_line(sections: dict[str, Any], what: str, write: Write) -> None:
    with pytest.raises(UsageError, match=r"line \d+") as refused:
        read_recipe(write(sections))
    assert what in str(refused.value)


def test_the_command_line_says_what_was_done(write: Write, tiny_clips: list[Path], tmp_path: Path) -> None:
    sections = {"soup": soups(tiny_clips)["soup"]}
    done = soupkit("run", write(sections), "-o", tmp_path / "out", "--until", "soup.one", "--json")
    assert done.returncode == 0, done.stderr
    (step,) = json.loads(done.stdout)["steps"]
    assert (step["name"], step["status"]) == ("soup.one", "done")
    assert soupkit("run", write({"soup": {}})).returncode == 2


def test_the_help_shows_the_defaults_that_are_words() -> None:
    assert "[default: runs/NAME]" in soupkit("run", "--help").stdout
    assert "[default: ~/.cache/soupkit]" in soupkit("evaluate", "--help").stdout
