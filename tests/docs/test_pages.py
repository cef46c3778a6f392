"""What the pages say is there: commands with their options, links with their anchors; the README is short."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from soupkit.cli.commands import register
from tests.docs.pages import PAGES, ROOT, blocks, name, prose

LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words after `soupkit` of every command line on a page."""
    lines = [
        line for language, block in blocks(text) if language in ("", "console", "bash") for line in block.splitlines()
    ]
    lines += re.findall(r"`((?:soupkit|torchrun) [^`\n]+)`", prose(text))
    for line in lines:
        line = line.partition("  #")[0]
        at = re.search(r"(?:^|/| -m |\$ )soupkit (?=[a-z-])", line)
        if at and "COMMAND" not in line:
            yield shlex.split(line[at.end() :].replace("...", "").partition(" && ")[0].partition(" > ")[0])


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    """Return the options of every command."""
    app = typer.Typer()
    register(app)
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return {
        name: {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for name, command in commands.items()
    }


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_on_the_page_exist_with_their_options(page: Path, options: dict[str, set[str]]) -> None:
    for command, *words in commands(page.read_text()):
        if command in ("--help", "--version", "--debug"):
            continue
        assert command in options, f"there is no `soupkit {command}`"
        used = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert used <= {*options[command], "--help"}, f"{command}: {used - options[command]}"


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and mkdocs make them of plain words."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_on_the_page_lead_somewhere(page: Path) -> None:
    for target in (a or b for a, b in LINK.findall(prose(page.read_text()))):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{target} is not there"
        assert linked.is_relative_to(ROOT)
        assert not anchor or anchor in anchors(linked.read_text()), f"{target}: no such heading"


def test_the_readme_is_read_in_a_few_minutes() -> None:
    assert len((ROOT / "README.md").read_text().split()) < 1500


def test_every_page_is_linked_from_another_one() -> None:
    linked = {
        (page.parent / path).resolve()
        for page in PAGES
        for target in (a or b for a, b in LINK.findall(page.read_text()))
        if (path := target.partition("#")[0]) and not re.match(r"\w+:", path)
    }
    assert {name(page) for page in PAGES if page not in linked and page != ROOT / "docs" / "index.md"} == set()
