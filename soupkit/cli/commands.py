"""The table of commands, in the order of a soup's life; each lives in a file of its own, with its help beside it."""

import typer

from soupkit.cli import compare, demo, inspect, merge


def register(app: typer.Typer) -> None:
    """Add every command to `app`."""
    app.command("demo", help=demo.HELP)(demo.demo)
    app.command("inspect", help=inspect.HELP)(inspect.inspect)
    app.command("compare", help=compare.HELP)(compare.compare)
    app.command("merge", help=merge.HELP)(merge.merge)
