"""Draws docs/house.svg: the floors of the package, from the contract in pyproject.toml and the packages' docstrings.

python scripts/draw_house.py
"""

import ast
import re
from html import escape
from pathlib import Path
from textwrap import wrap

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "house.svg"
TABLES = {"merging": "methods", "search": "strategies", "evaluation": "metrics", "checkpoint": "formats"}

WIDTH, FLOOR, ROOF, EAVES = 760, 50, 74, 26
LEFT, RIGHT = EAVES, WIDTH - EAVES
TEXT = LEFT + 132  # where the words about a floor begin
WINDOW = 104  # the width of a table's window
STYLE = """
  .paper { fill: #fbfaf7 } .wall { fill: #ffffff; stroke: #4a4a48 } .roof { fill: #e7eef6; stroke: #4a4a48 }
  .window { fill: #fdf1d8; stroke: #a87b1a } .base { fill: #efeeea; stroke: #4a4a48 }
  text { font: 13px system-ui, sans-serif; fill: #222220 } .name { font-weight: 600; font-size: 14px }
  .small { font-size: 11.5px; fill: #55544f }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #16171a } .wall { fill: #1f2125; stroke: #a5a29a } .roof { fill: #233246; stroke: #a5a29a }
    .window { fill: #3d3216; stroke: #d3a84a } .base { fill: #2a2b2f; stroke: #a5a29a }
    text { fill: #eceae4 } .small { fill: #b9b6ad }
  }"""


def layers() -> list[str]:
    """Return the modules of the contract, top floor first, without the package's name."""
    (listed,) = re.findall(r"^layers = (\[.*?^\])", (ROOT / "pyproject.toml").read_text(), re.DOTALL | re.MULTILINE)
    return [layer.strip("()").removeprefix("soupkit.") for layer in ast.literal_eval(listed)]


def purpose(package: str) -> str:
    """Return the first line of a package's docstring."""
    tree = ast.parse((ROOT / "soupkit" / package / "__init__.py").read_text())
    return (ast.get_docstring(tree) or "").split("\n\n", 1)[0].replace("\n", " ")


def draw() -> str:
    """Return the picture."""
    modules = layers()
    top, *floors = (name for name in modules if (ROOT / "soupkit" / name).is_dir())
    foundation = [name for name in modules if not (ROOT / "soupkit" / name).is_dir()]
    parts, y = [_roof(top)], 8 + ROOF
    for name in floors:
        parts.append(_floor(name, y))
        y += FLOOR
    parts.append(_foundation(foundation, y))
    y += FLOOR
    parts.append(
        _text(
            LEFT,
            y + 20,
            "Imports go down only. Yellow windows are tables that other packages may add rows to.",
            "small",
        )
    )
    height = y + 34
    title = "The floors of soupkit, from the command line at the top to the foundation"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}">',
            f"<title>{title}</title>",
            f"<style>{STYLE}\n</style>",
            f'<rect class="paper" width="{WIDTH}" height="{height}"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _roof(name: str) -> str:
    ridge, eaves = 8, 8 + ROOF
    points = f"{LEFT + 150},{ridge} {RIGHT - 150},{ridge} {WIDTH - 6},{eaves} 6,{eaves}"
    name_and_words = [_text(LEFT + 92, eaves - 20, name, "name"), _lines(purpose(name), TEXT, eaves - 28, 90)]
    return "\n".join([f'<polygon class="roof" points="{points}"/>', *name_and_words])


def _floor(name: str, y: int) -> str:
    parts = [
        f'<rect class="wall" x="{LEFT}" y="{y}" width="{RIGHT - LEFT}" height="{FLOOR}"/>',
        _text(LEFT + 14, y + 30, name, "name"),
    ]
    table = TABLES.get(name)
    parts.append(_lines(purpose(name), TEXT, y + 22, 70 if table else 88))
    if table:
        x = RIGHT - WINDOW - 12
        parts.append(f'<rect class="window" x="{x}" y="{y + 11}" width="{WINDOW}" height="{FLOOR - 22}" rx="3"/>')
        parts.append(_text(x + WINDOW // 2, y + 29, table, middle=True))
    return "\n".join(parts)


def _foundation(modules: list[str], y: int) -> str:
    parts = [f'<rect class="base" x="6" y="{y}" width="{WIDTH - 12}" height="{FLOOR}"/>']
    step = (WIDTH - 12) / len(modules)
    for i, name in enumerate(modules):
        parts.append(_text(round(6 + (i + 0.5) * step), y + 30, name, middle=True))
    return "\n".join(parts)


def _lines(words: str, x: int, y: int, width: int) -> str:
    """Return at most two lines of small text."""
    first, *rest = wrap(words, width)
    second = [_text(x, y + 16, " ".join(rest), "small")] if rest else []
    return "\n".join([_text(x, y if rest else y + 8, first, "small"), *second])


def _text(x: int, y: int, words: str, kind: str = "", *, middle: bool = False) -> str:
    anchor = ' text-anchor="middle"' if middle else ""
    own = f' class="{kind}"' if kind else ""
    return f'<text x="{x}" y="{y}"{own}{anchor}>{escape(words)}</text>'


if __name__ == "__main__":
    PICTURE.write_text(draw())
