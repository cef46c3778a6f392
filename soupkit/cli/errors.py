"""Errors as a person reads them: one short block of what is wrong, where, and what to do."""

import errno
import sys

from soupkit.cli.interrupts import INTERRUPTED
from soupkit.cli.output import first_rank
from soupkit.errors import SoupkitError, StorageError


def report(error: BaseException) -> int:
    """Print `error` to stderr and return the exit code that belongs to it."""
    if isinstance(error, KeyboardInterrupt):
        if first_rank():
            _block("interrupted", "", "the same command resumes where it stopped")
        return INTERRUPTED
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        error = StorageError("the disk is full", error.filename or "", "make room, then run the same command again")
    if isinstance(error, OSError) and error.filename:
        error = StorageError(error.strerror or str(error), error.filename, "check the path and who may use it")
    if isinstance(error, SoupkitError):
        if first_rank():  # every rank of a merge raises the error of the one that failed
            _block(error.what, error.where, error.hint)
        return error.exit_code
    _block(
        f"unexpected {type(error).__name__}: {error}",
        "",
        "this is a defect in soupkit; run again with --debug and report what it shows",
    )
    return 1


def _block(what: str, where: str, hint: str) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text.assemble(("error", "bold red"), f": {what}"))
    if where:
        console.print(Text(f"   at: {where}"))
    if hint:
        console.print(Text(f"   do: {hint}"))
    sys.stderr.flush()
