"""The documentation as the tests read it: every page of the repository that is written by hand."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Yield the language and the content of every fenced block."""
    for match in re.finditer(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE):
        yield match[1], match[2]


def prose(text: str) -> str:
    """Return the text without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)


def name(path: Path) -> str:
    """Return a page's path within the repository."""
    return path.relative_to(ROOT).as_posix()
