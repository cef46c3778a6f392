"""Errors as a person reads them: `error: WHERE: WHAT`, and below it `hint: WHAT TO DO`."""

import errno
import sys
from typing import Any

from soupkit.cli.interrupts import INTERRUPTED
from soupkit.cli.output import first_rank, plain_console, stop_output
from soupkit.errors import SoupkitError, StorageError, UsageError
from soupkit.files import is_of_the_machine, what_to_do

# Of torch, by what it says: it is not imported here.
_NO_MEMORY = (
    "can't allocate memory", "Cannot allocate memory", "CUDA out of memory", "can't start new thread",
    "could not create a primitive",
)  # fmt: skip


def report(error: BaseException, command: str = "soupkit") -> int:
    """Print `error`, raised in `command` ("soupkit merge"), to stderr and return the exit code that belongs to it."""
    if isinstance(error, KeyboardInterrupt):
        if first_rank():
            _print(SoupkitError("interrupted", command, "the same command resumes where it stopped"))
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        stop_output()
        return 1
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        error = StorageError(
            "the disk is full", error.filename or command, "make room, then run the same command again"
        )
    if isinstance(error, OSError) and (error.filename or is_of_the_machine(error)):
        error = StorageError(error.strerror or str(error), error.filename or command, what_to_do(error))
    if _is_short_of_memory(error):
        hint = (
            "give the machine, the container or the shell (ulimit -v) more, or take less at a time: by --slab-size, "
            "--batch-size, --threads or --workers, where the command has them; then run the same command again"
        )
        error = SoupkitError("the memory is used up", command, hint)
    if isinstance(error, SoupkitError):
        if first_rank():  # every rank of a merge raises the error of the one that failed
            _print(error)
        return error.exit_code
    hint = "this is a defect in soupkit; run again with --debug and report what it shows"
    _print(SoupkitError(f"unexpected {type(error).__name__}: {error}", command, hint))
    return 1


def _is_short_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
    )


def wrong_call(error: Any) -> UsageError:
    """Return what typer says of a command line that it cannot read, an exception of its own, as soupkit says it."""
    command = error.ctx.command_path if getattr(error, "ctx", None) is not None else "soupkit"
    usage = f"`{command} --help` shows the usage"
    if (option := getattr(error, "option_name", None)) is not None:
        if hasattr(error, "possibilities"):
            near = " or ".join(sorted(error.possibilities or ()))
            return UsageError(f"is no option of {command}", option, f"did you mean {near}?" if near else usage)
        return UsageError(_clause(error.message.removeprefix(f"Option {option!r} ")), option, usage)
    if (parameter := getattr(error, "param", None)) is not None:
        is_option = parameter.param_type_name == "option"
        name = parameter.opts[-1] if is_option else (parameter.metavar or parameter.name.upper()).split()[0]
        return UsageError(_clause(error.message) or "is missing", name, usage)
    return UsageError(_clause(error.format_message()), command, usage)


def _clause(sentence: str) -> str:
    """Return a sentence of typer's as the end of one of ours."""
    return (sentence[:1].lower() + sentence[1:]).strip().rstrip(".")


def _print(error: SoupkitError) -> None:
    try:
        _print_in_colours(error)
    except MemoryError:  # not even for that is there any
        sys.stderr.write(f"error: {error}\n")
    sys.stderr.flush()


def _print_in_colours(error: SoupkitError) -> None:
    from rich.text import Text

    console = plain_console(stderr=True)
    console.print(Text.assemble(("error", "bold red"), f": {error.sentence}"), soft_wrap=True)
    if error.hint:
        console.print(Text.assemble(("hint", "bold cyan"), f": {error.hint}"), soft_wrap=True)
