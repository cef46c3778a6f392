"""--quiet, --verbose, NO_COLOR and pipes: what is said, where, and in which form."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import environment, soupkit


def test_a_finished_command_ends_with_what_was_made_and_what_usually_follows(
    tiny_clips: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "the soup"
    done = soupkit("merge", *tiny_clips[1:], "-o", out)
    *_, made, following = done.stderr.splitlines()
    assert made == f"soup: {out}"
    assert following == f"next: soupkit evaluate '{out}' {tiny_clips[1]} {tiny_clips[2]} --task TASK"


@pytest.mark.parametrize("place", ["before", "after"])
def test_quiet_says_nothing_but_results_and_errors(place: str, tiny_clips: list[Path], tmp_path: Path) -> None:
    options = ["-q", "merge"] if place == "before" else ["merge", "--quiet"]
    done = soupkit(*options, *tiny_clips[1:], "-o", tmp_path / "soup")
    assert done.returncode == 0 and done.stderr == "" and done.stdout == ""
    document = soupkit(*options, *tiny_clips[1:], "-o", tmp_path / "soup", "--json")
    assert json.loads(document.stdout)["status"] == "unchanged" and document.stderr == ""
    wrong = soupkit(*options, *tiny_clips[1:], "-o", tmp_path / "x", "--method", "boil")
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: ")


def test_verbose_says_what_each_step_took(tiny_clips: list[Path], tmp_path: Path) -> None:
    short = soupkit("merge", *tiny_clips[1:], "-o", tmp_path / "a").stderr
    long = soupkit("-v", "merge", *tiny_clips[1:], "-o", tmp_path / "b").stderr
    assert len(long.splitlines()) > len(short.splitlines()) and " in 0." in long


def test_debug_stands_before_the_command_or_after_it(tmp_path: Path) -> None:
    for arguments in (("--debug", "inspect", tmp_path / "x"), ("inspect", tmp_path / "x", "--debug")):
        assert "Traceback" in soupkit(*arguments).stderr


def test_pipes_get_whole_lines_without_colour(tiny_clips: list[Path], tmp_path: Path) -> None:
    """Whatever the width: a name of 150 characters is one word of one line."""
    long = tmp_path / ("x" * 150)
    long.symlink_to(tiny_clips[0])
    env = {k: v for k, v in environment().items() if k not in ("COLUMNS", "NO_COLOR")}
    command = [sys.executable, "-m", "soupkit", "compare", str(long), str(tiny_clips[1])]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0 and "\x1b" not in done.stdout + done.stderr
    assert any("x" * 150 in line for line in done.stdout.splitlines())


def test_no_color_is_minded_and_force_color_too() -> None:
    base = {k: v for k, v in environment().items() if k not in ("NO_COLOR", "TERM")}
    command = [sys.executable, "-m", "soupkit", "boil"]
    coloured = subprocess.run(command, capture_output=True, text=True, env={**base, "FORCE_COLOR": "1"})
    plain = subprocess.run(command, capture_output=True, text=True, env={**base, "FORCE_COLOR": "1", "NO_COLOR": "1"})
    assert "\x1b[1;31m" in coloured.stderr and "\x1b[1;31m" not in plain.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_stream_that_cannot_hold_all_characters_is_written_to_all_the_same(
    encoding: str, tiny_clips: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "Модель 模型").symlink_to(tiny_clips[0])
    env = {**environment(), "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "XDG_CACHE_HOME": str(tmp_path)}
    words = ("evaluate", str(tmp_path / "Модель 模型"), str(tiny_clips[1]), "--task", "digits", "--limit", "20")
    done = subprocess.run([sys.executable, "-m", "soupkit", *words], capture_output=True, env=env)
    out = done.stdout.decode(encoding)
    assert done.returncode == 0 and "\\u041c\\u043e" in out, done.stderr
    assert ("+-" if encoding == "ascii" else "±") in out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_and_options(shell: str) -> None:
    env = {
        **environment(),
        "_SOUPKIT_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": "soupkit me",
        "COMP_CWORD": "1",
        "_TYPER_COMPLETE_ARGS": "soupkit me",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    command = [sys.executable, "-c", "from soupkit.__main__ import main; main()"]
    completed = subprocess.run(command, capture_output=True, text=True, env=env)
    assert "merge" in completed.stdout, completed.stderr


@pytest.mark.parametrize(
    ("words", "whole"),
    [
        ("merge --method tie", "ties"),
        ("search a b --strategy sw", "swap"),
        ("evaluate a --task dig", "digits"),
        ("search a b --report-task wds/vtab/cifar10", "wds/vtab/cifar100"),
    ],
)
def test_shells_complete_names(words: str, whole: str) -> None:
    count = str(len(words.split()))
    env = {**environment(), "_SOUPKIT_COMPLETE": "complete_bash", "COMP_WORDS": f"soupkit {words}", "COMP_CWORD": count}
    command = [sys.executable, "-c", "from soupkit.__main__ import main; main()"]
    completed = subprocess.run(command, capture_output=True, text=True, env=env)
    assert whole in completed.stdout.split(), (completed.stdout, completed.stderr)
