"""Renews the tables of methods, strategies and formats on the pages of docs/, which are made from the program's own.

    python scripts/make_tables.py

A table stands between `<!-- NAME -->` and `<!-- end of NAME -->`.
"""

import re
from collections.abc import Callable
from pathlib import Path

from soupkit.checkpoint.formats.table import FORMATS, FileFormat
from soupkit.files import write_whole
from soupkit.merging.method_tables import as_markdown as methods
from soupkit.search.strategies.table import as_markdown as strategies

DOCS = Path(__file__).parents[1] / "docs"


def formats() -> str:
    """Return the table of formats: files by the ends of their names, and folders."""
    lines = ["| format | what it is | files |", "|---|---|---|"]
    for row in FORMATS.values():
        files = ", ".join(f"`{suffix}`" for suffix in row.suffixes) if isinstance(row, FileFormat) else "a folder"
        lines.append(f"| `{row.name}` | {row.summary} | {files} |")
    return "\n".join(lines) + "\n"


TABLES: dict[str, tuple[str, Callable[[], str]]] = {
    "methods": ("methods.md", methods),
    "strategies": ("search.md", strategies),
    "formats": ("references.md", formats),
}


def renewed(text: str, name: str, table: str) -> str:
    """Return the page `text` with `table` between its markers."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    assert pattern.search(text), f"the page has no place for the table of {name}"
    return pattern.sub(lambda _: begin + table + end, text)


if __name__ == "__main__":
    for name, (page, make) in TABLES.items():
        path = DOCS / page
        write_whole(path, renewed(path.read_text("utf-8"), name, make()))
