"""The table of commands, in the order of a soup's life; each lives in a file of its own, with its help beside it."""

import sys
import traceback
from collections.abc import Callable
from functools import wraps
from inspect import Parameter, signature
from typing import Any

import typer

from soupkit.cli import (
    cache,
    classify,
    compare,
    demo,
    doctor,
    evaluate,
    inspect,
    interpolate,
    merge,
    plugins,
    push,
    report,
    run,
    search,
    statistics,
    train,
)
from soupkit.cli.errors import report as report_error
from soupkit.cli.help import HelpCommand
from soupkit.cli.interrupts import interruptible
from soupkit.cli.manner import Debug, Quiet, Verbose, choose, manner

_COMMANDS: dict[str, tuple[tuple[Any, Callable[..., None]], ...]] = {
    "Make": (
        (demo, demo.demo),
        (train, train.train),
        (merge, merge.merge),
        (search, search.search),
        (interpolate, interpolate.interpolate),
        (run, run.run),
    ),
    "Measure": (
        (inspect, inspect.inspect),
        (compare, compare.compare),
        (evaluate, evaluate.evaluate),
        (classify, classify.classify),
        (statistics, statistics.statistics),
    ),
    "Publish": (
        (report, report.report),
        (push, push.push),
    ),
    "Look after soupkit": (
        (doctor, doctor.doctor),
        (cache, cache.cache),
        (plugins, plugins.plugins),
    ),
}


def register(app: typer.Typer) -> None:
    """Add every command to `app`."""
    for group, commands in _COMMANDS.items():
        for module, command in commands:
            name, earlier = command.__name__.replace("_", "-"), getattr(module, "EARLIER_NAMES", ())
            for called in (name, *earlier):
                kind, hidden = _class_of(module), called in earlier
                add = app.command(called, help=module.HELP, cls=kind, rich_help_panel=group, hidden=hidden)
                add(_reporting(command, called))


def _class_of(module: Any) -> type[HelpCommand]:
    """Return the class of a command; the help of one with `full_help` lists a table, loaded when the help is shown."""
    kind = getattr(module, "COMMAND_CLASS", HelpCommand)
    full_help = getattr(module, "full_help", None)
    return type("Command", (kind,), {"late_help": staticmethod(full_help)}) if full_help else kind


def _reporting(command: Callable[..., None], name: str) -> Callable[..., None]:
    """Wrap `command` so that its errors become one short block and an exit code, and give it the options that all have.

    Typer reads a command's options from its signature, so the new function shows them in its own.
    """

    @wraps(command)
    def run(*, quiet: bool, verbose: bool, debug: bool, **arguments: Any) -> None:
        choose(quiet=quiet, verbose=verbose, debug=debug)
        try:
            with interruptible():
                command(**arguments)
        except (typer.Exit, typer.Abort):
            raise
        except (Exception, KeyboardInterrupt) as error:
            if manner().debug:
                traceback.print_exc()
            sys.exit(report_error(error, f"soupkit {name}"))

    own = signature(command)
    shared = (("quiet", Quiet), ("verbose", Verbose), ("debug", Debug))
    options = [Parameter(n, Parameter.KEYWORD_ONLY, default=False, annotation=kind) for n, kind in shared]
    parameters = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in own.parameters.values()]
    run.__signature__ = own.replace(parameters=[*parameters, *options])  # type: ignore[attr-defined]
    return run
