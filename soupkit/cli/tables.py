"""Tables that fit the terminal: no cell wraps, and names stay tellable apart."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from soupkit.publishing.short_names import FittedNames, fit_names

if TYPE_CHECKING:
    from soupkit.cli.console import PlainConsole

_ANY_WIDTH = 10_000  # columns
NAME_WIDTHS = (64, 48, 32, 24, 14)
_NUMBERS = 1  # the width with which names become numbers
Cell = Text | str


def table_of(heads: Sequence[str], rows: Iterable[Sequence[Cell]] = (), *, title: str = "") -> Table:
    """Return a table whose cells do not wrap: the first column to the left, numbers to the right."""
    table = Table(box=None, pad_edge=False, title_justify="left", padding=(0, 1))
    table.title = Text(title, style="bold") if title else None
    for i, head in enumerate(heads):
        table.add_column(Text(head), no_wrap=True, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*row)
    return table


def fits(console: "PlainConsole", *tables: Table) -> bool:
    """Whether every table is as narrow as the terminal."""
    unbounded = console.options.update(max_width=_ANY_WIDTH)
    return all(console.measure(table, options=unbounded).maximum <= console.width for table in tables)


def show_named(console: "PlainConsole", refs: Sequence[str], build: Callable[[dict[str, str]], Table]) -> None:
    """Print the table that `build` makes with the longest names of `refs` that fit, and the legend of numbers."""
    named = fit_names(refs, NAME_WIDTHS[-1])
    for width in (*NAME_WIDTHS, _NUMBERS):
        named = fit_names(refs, width)
        if fits(console, build(named.names)):
            break
    console.print(build(named.names))
    show_legend(console, named)


def show_legend(console: "PlainConsole", named: FittedNames) -> None:
    """Say which number stands for which reference, where names had to give way to numbers."""
    for number, ref in named.legend.items():
        console.print(f"{number}  {ref}", soft_wrap=True)


def show_in_parts(console: "PlainConsole", heads: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Print a table; one that is too wide as several below each other, which all begin with its first column."""
    begin = 1
    while begin < len(heads) or begin == 1:
        end = len(heads)
        while end > begin + 1 and not fits(console, _part(heads, rows, begin, end)):
            end -= 1
        if begin > 1:
            console.print()
        console.print(_part(heads, rows, begin, end))
        begin = max(end, begin + 1)


def _part(heads: Sequence[str], rows: Sequence[Sequence[Cell]], begin: int, end: int) -> Table:
    return table_of([heads[0], *heads[begin:end]], [[row[0], *row[begin:end]] for row in rows])
