"""The table of commands: which file each lives in. Each file offers one function that typer reads the options from."""

import typer


def register(app: typer.Typer) -> None:
    """Add every command to `app`, in the order of a soup's life."""
    from soupkit.cli import inspect, merge

    app.command("inspect")(inspect.inspect)
    app.command("merge")(merge.merge)
