"""Help fits its terminal: nothing is wider, options are grouped, types are plain and defaults stand there."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from soupkit.cli.commands import register
from soupkit.cli.main import app
from tests.cli.test_score_table import WIDTHS, compared

COMMANDS = Typer()
register(COMMANDS)
NAMES = [c.name for c in COMMANDS.registered_commands if c.name and not c.hidden]


def help_of(command: str, width: int) -> str:
    done = CliRunner().invoke(COMMANDS, [command, "--help"], prog_name="soupkit", env={"COLUMNS": str(width)})
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("command", NAMES)
def test_no_line_is_wider_than_the_terminal_or_than_prose_should_be(command: str, width: int) -> None:
    lines = help_of(command, width).splitlines()
    words = max(len(word) for line in lines for word in line.split())
    assert max(map(len, lines)) <= max(min(width, 100), words + 8)
    assert not any(line != line.rstrip() for line in lines)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_help_of_a_command_is_as_it_was(width: int) -> None:
    compared(help_of("push", width), f"help-push-at-{width}.txt")


@pytest.mark.parametrize("command", NAMES)
def test_types_are_plain_and_flags_have_none(command: str) -> None:
    text = help_of(command, 120)
    assert not re.search(r"<(str|int|float|bool|path)>|\bx>=", text)
    assert re.search(r"^  --json  ", text, re.MULTILINE) and re.search(r"^  -q, --quiet  ", text, re.MULTILINE)


@pytest.mark.parametrize(("command", "option", "default"), [
    ("merge", "--slab-size SIZE", "32MiB"), ("evaluate", "--device auto|cpu|cuda[:i]", "auto"),
    ("cache", "--older-than DAYS", "30"), ("report", "-o, --output FILE", "report.html"),
])  # fmt: skip
def test_defaults_stand_in_the_help(command: str, option: str, default: str) -> None:
    line = next(line for line in help_of(command, 200).splitlines() if line.strip().startswith(option))
    assert f"default: {default}]" in line


def test_options_are_grouped_by_what_they_are_for() -> None:
    text = help_of("evaluate", 80)
    groups = {}
    for line in text.splitlines():
        if re.match(r"[A-Z][a-z]", line):
            group = line
        elif found := re.match(r"  (?:-\w, )?(--[\w-]+)", line):
            groups[found[1]] = group
    assert groups["--device"] == groups["--precision"] == "Computing"
    assert groups["--task"] == groups["--data-root"] == "Data and models"
    assert groups["--json"] == groups["--help"] == groups["--quiet"] == "Running"


def test_a_command_in_an_example_can_be_typed_as_it_is_broken() -> None:
    text = help_of("push", 60)
    example = text[text.index("    soupkit evaluate") : text.index("Before anything")]
    joined = re.sub(r" \\\n\s+", " ", example)
    assert "soupkit evaluate soups/greedy runs/a runs/b --task digits -o soups/greedy/scores.json" in joined


def test_the_list_of_commands_is_grouped_and_hides_old_names() -> None:
    register(app) if not app.registered_commands else None
    done = CliRunner().invoke(app, ["--help"], prog_name="soupkit", env={"COLUMNS": "80"})
    text = done.output
    order = [text.index(f"\n{title}\n") for title in ("Make", "Measure", "Publish", "Look after soupkit", "Running")]
    assert order == sorted(order) and "greedy-search" not in text and "\n  search " in text


def test_version_is_one_line(cli: Callable[..., object], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert done.exit_code == 0 and re.fullmatch(r"soupkit \d+\.\d+\S*\n", done.output)
