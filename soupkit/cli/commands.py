"""The table of commands, in the order of a soup's life; each lives in a file of its own, with its help beside it."""

import sys
import traceback
from collections.abc import Callable
from functools import wraps
from inspect import cleandoc
from typing import Any

import typer
from typer.core import TyperCommand

from soupkit.cli import (
    classify,
    compare,
    demo,
    evaluate,
    inspect,
    interpolate,
    merge,
    plugins,
    push,
    report,
    run,
    search,
    train,
)
from soupkit.cli.errors import report as report_error
from soupkit.cli.interrupts import interruptible


def register(app: typer.Typer, *, debug: bool) -> None:
    """Add every command to `app`. With `debug` errors show their traceback too."""
    for module, command in (
        (demo, demo.demo),
        (inspect, inspect.inspect),
        (compare, compare.compare),
        (train, train.train),
        (merge, merge.merge),
        (evaluate, evaluate.evaluate),
        (classify, classify.classify),
        (search, search.search),
        (interpolate, interpolate.interpolate),
        (report, report.report),
        (push, push.push),
        (run, run.run),
        (plugins, plugins.plugins),
    ):
        name, late, aliases = command.__name__.replace("_", "-"), getattr(module, "full_help", None), _aliases(module)
        cls = _with_late_help(late) if late is not None else getattr(module, "COMMAND_CLASS", None)
        for called in (name, *aliases):
            add = app.command(called, help=module.HELP, cls=cls, hidden=called in aliases)
            add(_reporting(command, called, debug))


def _aliases(module: Any) -> tuple[str, ...]:
    """Return what else a module's command is called: names that it had before, and keeps."""
    return getattr(module, "ALIASES", ())


def _with_late_help(full_help: Callable[[], str]) -> type[TyperCommand]:
    """Return the class of a command whose help lists a table, which is loaded when the help is asked for."""

    class Command(TyperCommand):
        def format_help(self, *arguments: Any, **options: Any) -> None:
            self.help = cleandoc(full_help())
            super().format_help(*arguments, **options)

    return Command


def _reporting(command: Callable[..., None], name: str, debug: bool) -> Callable[..., None]:
    """Wrap `command` so that its errors become one short block and an exit code."""

    @wraps(command)
    def run(**arguments: Any) -> None:
        try:
            with interruptible():
                command(**arguments)
        except (typer.Exit, typer.Abort):
            raise
        except (Exception, KeyboardInterrupt) as error:
            if debug:
                traceback.print_exc()
            sys.exit(report_error(error, f"soupkit {name}"))

    return run
