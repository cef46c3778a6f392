"""What strangers wrote into a checkpoint or a file's name is shown on the terminal, and does nothing there."""

import json
from pathlib import Path

import pytest
import torch
from rich.table import Table
from rich.text import Text
from safetensors.torch import save_file

from soupkit import merge
from soupkit.cli.console import PlainConsole
from soupkit.cli.output import say
from soupkit.cli.tables import table_of
from soupkit.errors import SoupkitError
from tests.processes import soupkit

EVIL = "a\x1b]0;owned\x9c\x1b[2Jb\x9b31m"
SHOWN = "a\\x1b]0;owned\\x9c\\x1b[2Jb\\x9b31m"


def acts(text: str) -> bool:
    return any(c in text for c in "\x1b\x07\x9b\r")


def test_a_console_shows_control_characters_also_within_tables(capsys: pytest.CaptureFixture[str]) -> None:
    console = PlainConsole(width=100, markup=False)
    table = Table("head", box=None)
    table.add_row(EVIL)
    table.add_row(Text(EVIL))
    console.print(EVIL)
    console.print(Text(EVIL, style="bold"))
    console.print(table)
    out = capsys.readouterr().out
    assert out.count(SHOWN) >= 3 and not acts(out)


def test_colours_are_still_rich_s_own(capsys: pytest.CaptureFixture[str]) -> None:
    console = PlainConsole(width=100, force_terminal=True, color_system="standard", no_color=False)
    console.print(Text(EVIL, style="bold"))
    assert capsys.readouterr().out == f"\x1b[1m{SHOWN}\x1b[0m\n"


def test_plain_lines_show_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    say(EVIL)
    assert capsys.readouterr().err == SHOWN + "\n"


@pytest.mark.parametrize("command", [("inspect", "--tensors"), ("inspect", "--json", "--tensors"), ("compare",)])
def test_names_of_tensors_metadata_and_files_do_nothing_on_a_terminal(command: tuple[str, ...], tmp_path: Path) -> None:
    files = [tmp_path / f"{EVIL.replace('/', '')}{i}.safetensors" for i in range(2)]
    for i, file in enumerate(files):
        save_file({f"{EVIL}{i}": torch.zeros(2), "b": torch.zeros(2)}, file, {"note": EVIL})
    done = soupkit(command[0], *files[: 1 if command[0] == "inspect" else 2], *command[1:])
    assert not acts(done.stdout + done.stderr), (done.stdout, done.stderr)
    assert SHOWN in done.stdout or EVIL in json.loads(done.stdout)["metadata"]["note"]


def test_an_error_about_an_evil_name_is_one_line_that_does_nothing(tmp_path: Path) -> None:
    done = soupkit("inspect", f"{tmp_path}/{EVIL}\nerror: all is well")
    assert done.returncode == 1 and not acts(done.stderr)
    assert SHOWN + "\\nerror: all is well" in done.stderr and done.stderr.count("\nerror:") == 0


def test_a_name_of_a_stranger_makes_no_line_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil, shown = "a\nerror: all is well", "a\\nerror: all is well"
    for i in range(2):
        save_file({evil: torch.ones(i + 1)}, tmp_path / f"{i}.safetensors")
    with pytest.raises(SoupkitError) as caught:
        merge([tmp_path / "0.safetensors", tmp_path / "1.safetensors"], tmp_path / "out")
    assert shown in str(caught.value).splitlines()[0]
    say(evil)
    console = PlainConsole(width=100)
    console.print(table_of(["name", "n"], [[evil, "1"]]))
    console.print(evil)
    said = capsys.readouterr()
    assert said.err == f"{shown}\n" and said.out.count(shown) == 2 and evil not in said.out
