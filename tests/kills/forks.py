"""Forks of this very process, which has imported all that a command needs: a hundredth of a second each.

The process must have computed nothing and must have no threads when it forks.
"""

import importlib
import multiprocessing
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.kills.points import Place
from tests.processes import Started, run_soupkit

_FORKS = multiprocessing.get_context("fork")


def fork(work: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Run `work`, any function, in a fork of this process."""
    process = _FORKS.Process(target=_run, args=(work, *arguments))
    process.start()
    return process


def _run(work: Callable[..., None], *arguments: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # what a script makes of it is not for its forks
    work(*arguments)


class Fork(Started):
    """Something that goes on in a fork of this process, and what it writes."""

    _fork = staticmethod(fork)


def _run_and_tell(
    path: str, arguments: list[str], directory: str, variables: dict[str, str], streams: tuple[str, str]
) -> None:
    """Be the command line, and write down which modules there are in the end."""
    try:
        run_soupkit(arguments, directory, variables, streams)
    finally:
        Path(path).write_text("\n".join(sys.modules))


def import_all(arguments: Sequence[object], place: Place) -> None:
    """Import here what a command imports when it runs, by running it once; what it leaves on disk stays."""
    modules = place.root.with_name("modules")
    words = [str(a) for a in arguments]
    ranks = [Fork(_run_and_tell, (str(modules), words), place.root, env) for env in place.environments()]
    for rank in ranks:
        done = rank.wait(400)
        assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-3000:]}"
    for name in modules.read_text().splitlines():
        if name not in sys.modules:
            with suppress(ImportError):
                importlib.import_module(name)


def build_command_line() -> None:
    """Build the parser of all commands here, so that no fork does: it is half of the time of a small merge."""
    import typer.main

    from soupkit.cli import commands, main

    commands.register(main.app)
    built = typer.main.get_command(main.app)
    typer.main.get_command = lambda app: built
    commands.register = lambda app: None
