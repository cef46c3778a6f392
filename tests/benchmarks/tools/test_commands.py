"""A room's command line: every subject has its own arguments, and a table says which command makes it."""

import argparse
from importlib import import_module
from pathlib import Path
from shlex import split

import pytest

from benchmarks import ROOT
from benchmarks.tools.commands import Room, Subject, command_of

ROOMS = {
    name: import_module(f"benchmarks.{name}.__main__").ROOM
    for name in ("merge", "evaluate", "search", "train", "soups", "methods")
}
RESULTS = sorted((ROOT / "benchmarks" / "results").rglob("*.md"))


def counted(arguments: argparse.Namespace) -> list[str]:
    arguments.record.add("rounds", {"seconds": 1.0})
    return [f"{arguments.times} times"]


COUNTING = Subject("count", "Count.\n\nAs often as you like.", lambda p: p.add_argument("--times"), counted, keeps=True)


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_first_line_of_a_result_is_a_command_that_exists(path: Path) -> None:
    first, _, heading = path.read_text().splitlines()[:3]
    assert first.startswith("`") and first.endswith("`") and heading.startswith("## "), first
    words = [word for word in split(first.strip("`")) if not word.startswith("OMP_NUM_THREADS=")]
    assert words[:2] == ["python", "-m"]
    name = words[2].removeprefix("benchmarks.")
    assert path.parent.name == name
    ROOMS[name].parse(words[3:])


def test_every_subject_is_listed_with_the_first_paragraph_of_its_text() -> None:
    for room in ROOMS.values():
        listed = "".join(room.parser().format_help().split())  # lines may break at hyphens, too
        for subject in room.subjects:
            assert subject.summary.endswith((".", "?")) and "".join(subject.summary.split()) in listed


def test_a_table_begins_with_the_command_that_makes_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    output = tmp_path / "results" / "table.md"
    room = Room("counting", "Counts.", (COUNTING,))
    room.run(["count", "--times", "a few", "--work", str(tmp_path), "--output", str(output)])
    text = "`OMP_NUM_THREADS=1 python -m benchmarks.counting count --times 'a few' --work DIR`\n\na few times\n"
    assert output.read_text() == capsys.readouterr().out == text
    assert list(tmp_path.glob("rounds-*")) == [], "saved, its rounds are over"


def test_rounds_are_kept_until_the_table_is_saved(tmp_path: Path) -> None:
    Room("counting", "Counts.", (COUNTING,)).run(["count", f"--work={tmp_path}"])
    assert (tmp_path / "rounds-counting-count.jsonl").exists()


def test_directories_of_ones_own_are_no_part_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    given = ["real", "--work=/home/me/x", "--output=/home/me/y.md", "--data", "/home/me/z", "--rounds", "2"]
    assert command_of("search", given) == "python -m benchmarks.search real --work DIR --data DIR --rounds 2"
    given = ["methods", "x", "--python", "/own/bin/python", "--rounds", "2"]
    assert command_of("merge", given) == "python -m benchmarks.merge methods x --rounds 2"
