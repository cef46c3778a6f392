"""`soupkit plugins`: where each merge method, search strategy, metric and format comes from."""

from typing import TYPE_CHECKING, Any

from soupkit.cli.options import AsJson

if TYPE_CHECKING:
    from soupkit.extensions import Table

HELP = """\
List the merge methods, search strategies, metrics and formats that are there, and the package that each comes from.

[bold]Example[/bold]:

    soupkit plugins

Packages add rows by the entry points soupkit.methods, soupkit.strategies, soupkit.metrics and soupkit.formats. One that
cannot be loaded is named here, and as a warning where its table is used; what does not need it goes on.
"""


def plugins(as_json: AsJson = False) -> None:
    """Run the command; `HELP` is its help."""
    import warnings

    from soupkit.cli.output import print_json
    from soupkit.extensions import PluginWarning, all_tables

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PluginWarning)  # what is broken is listed
        tables = all_tables()
        if as_json:
            print_json("plugins", {"tables": {group: _document(table) for group, table in tables.items()}})
        else:
            for table in tables.values():
                _show(table)


def _document(table: "Table[Any]") -> dict[str, object]:
    return {
        "noun": table.noun,
        "option": table.option,
        "rows": [{"name": n, "package": table.package_of(n), "summary": row.summary} for n, row in table.items()],
        "broken": [{"package": b.package, "entry": b.entry, "error": b.error} for b in table.broken],
    }


def _show(table: "Table[Any]") -> None:
    from rich.table import Table as Listing
    from rich.text import Text

    from soupkit.cli.output import plain_console

    console = plain_console()
    listing = Listing(table.noun, "from", "what it is", box=None, pad_edge=False)
    listing.columns[0].no_wrap = listing.columns[1].no_wrap = True
    for name, row in table.items():
        listing.add_row(name, table.package_of(name), row.summary)
    console.print(listing)
    for broken in table.broken:
        console.print(Text.assemble(("warning", "bold yellow"), f": {broken}"), soft_wrap=True)
    console.print()
