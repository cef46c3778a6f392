"""How much a command says: what `--quiet`, `--verbose` and `--debug` choose, for the whole process."""

from dataclasses import dataclass, replace
from typing import Annotated

import typer

Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing but results, warnings and errors.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Say more: what each step took, and every pair.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the full traceback of an error.")]


@dataclass(frozen=True, slots=True)
class Manner:
    """`quiet`: no progress and no notes; `verbose`: more of them; `debug`: errors with their traceback."""

    quiet: bool = False
    verbose: bool = False
    debug: bool = False


_chosen = Manner()


def manner() -> Manner:
    """Return what was chosen."""
    return _chosen


def choose(*, quiet: bool, verbose: bool, debug: bool) -> None:
    """Add to what was chosen: the options may stand before the command or after it."""
    global _chosen
    _chosen = replace(
        _chosen,
        quiet=_chosen.quiet or quiet,
        verbose=_chosen.verbose or verbose,
        debug=_chosen.debug or debug,
    )


def forget() -> None:
    """Choose nothing, for another command in the same process."""
    global _chosen
    _chosen = Manner()
