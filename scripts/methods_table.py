"""Puts the table of merge methods, made from the program's own, between the markers of docs/methods.md.

python scripts/methods_table.py
"""

from pathlib import Path

from soupkit.files import write_whole
from soupkit.merging.registry import as_markdown

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"
BEGIN, END = "<!-- methods -->\n", "<!-- end of methods -->"

if __name__ == "__main__":
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    write_whole(PAGE, before + BEGIN + as_markdown() + END + rest.partition(END)[2])
