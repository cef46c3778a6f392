"""The `soupkit` command: registers the commands, and turns errors into one short block and an exit code.

Imports stay light: each command loads what it needs when it runs, so that `soupkit --help` is instant.
"""

import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, cast

import typer

from soupkit.cli import commands
from soupkit.cli.errors import report, wrong_call
from soupkit.cli.help import HelpGroup
from soupkit.cli.manner import Debug, Quiet, Verbose, choose
from soupkit.cli.output import first_rank, warn, write_anywhere
from soupkit.version import __version__

app = typer.Typer(
    name="soupkit",
    help="Turn several fine-tuned CLIP checkpoints into one better model, and prove that it is better.",
    invoke_without_command=True,
    add_completion=True,
    cls=HelpGroup,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

# click's UsageError, which newer versions of typer bring along as a class of their own
_WrongCall = cast(type[Exception], typer.BadParameter.__mro__[1])


def _version(show: bool) -> None:
    if show:
        typer.echo(f"soupkit {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    choose(quiet=quiet, verbose=verbose, debug=debug)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


def _show_warning(others: Callable[..., None], message: Warning | str, category: type[Warning], *where: Any) -> None:
    """Say what soupkit warns of in one line; what other packages warn of is shown as it always is, by `others`."""
    from soupkit.extensions import PluginWarning

    if not issubclass(category, PluginWarning):
        others(message, category, *where)
    elif first_rank():
        warn(f"warning: {message}")


def run() -> None:
    """Run the command line and exit: 0 done, 1 the work failed, 2 the call was wrong, 130 interrupted."""
    warnings.showwarning = partial(_show_warning, warnings.showwarning)
    write_anywhere()
    commands.register(app)
    try:
        sys.exit(app(prog_name="soupkit", standalone_mode=False))
    except _WrongCall as error:
        sys.exit(report(wrong_call(error)))
