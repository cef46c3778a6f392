"""What every command shares on the terminal: the JSON document, messages for people, amounts with their units."""

import codecs
import json
import math
import os
import shlex
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soupkit.cli.manner import manner
from soupkit.errors import UsageError
from soupkit.files import real_path, storage_error, write_whole
from soupkit.text import visible

if TYPE_CHECKING:
    from soupkit.cli.console import PlainConsole

_PIPE_WIDTH = 500  # columns
_PLAINER = {"±": "+-", "…": "...", "–": "-", "━": "-", "╸": "-", "╺": "-", "×": "x", "’": "'"} | {
    bar: str(height) for height, bar in enumerate("▁▂▃▄▅▆▇█")
}


def print_json(command: str, fields: dict[str, Any]) -> None:
    """Print the one JSON document of a command on stdout. NaN and infinities become null.

    Exits with 1, in silence, where nobody reads it any more (`soupkit inspect REF --json | head -1`).
    """
    try:
        sys.stdout.write(_document(command, fields))
        sys.stdout.flush()
    except BrokenPipeError:
        stop_output()
        sys.exit(1)


def write_anywhere() -> None:
    """Let streams that cannot hold all characters (ASCII, Latin 1) have others in their place, and never fail."""
    codecs.register_error("soupkit", _in_its_place)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and not stream.encoding.lower().startswith("utf"):
            stream.reconfigure(errors="soupkit")


def _in_its_place(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    wrong = error.object[error.start : error.end]
    return "".join(_PLAINER.get(c, c.encode("unicode_escape").decode()) for c in wrong), error.end


def stop_output() -> None:
    """Send what is still to be written to stdout, at the latest when Python ends, to nobody."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def check_file(path: Path | None, option: str = "-o") -> None:
    """Raise UsageError where no file can be written to `path`: found out before the work, not after it."""
    if path is not None and real_path(path).is_symlink():
        raise UsageError("is a link that leads back to itself", f"{option} {path}", "name another file")
    if path is not None and not real_path(path).parent.is_dir():
        raise UsageError("lies in no directory that exists", f"{option} {path}", "make the directory first")
    if path is not None and path.is_dir():
        raise UsageError("is a directory", f"{option} {path}", "name a file")


def write_json(path: Path, command: str, fields: dict[str, Any]) -> None:
    """Write the same document to a file, whole or not at all. A pipe or a device is written to as it is, and a link
    stays one. Raises StorageError."""
    text = _document(command, fields)
    if path.exists() and not path.is_file() and not path.is_dir():
        try:
            path.write_text(text)
        except OSError as error:
            raise storage_error(error, path, 0) from error
    else:
        write_whole(real_path(path), text)


def _document(command: str, fields: dict[str, Any]) -> str:
    return json.dumps({"schema": 1, "command": command, **_finite(fields)}, indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


def plain_console(*, stderr: bool = False) -> "PlainConsole":
    """Return a console that prints names as they are: `digits:train:` holds no emoji, a path in brackets no markup."""
    from soupkit.cli.console import PlainConsole

    stream = sys.stderr if stderr else sys.stdout
    # Nobody's terminal is as wide as a pipe: what reads from it gets whole lines. rich knows a notebook's width.
    width = None if stream.isatty() or "COLUMNS" in os.environ or in_notebook() else _PIPE_WIDTH
    return PlainConsole(highlight=False, markup=False, emoji=False, stderr=stderr, width=width)


def in_notebook() -> bool:
    """Whether what is said goes to the page of a notebook, by rich's own judgement."""
    if "IPython" not in sys.modules:
        return False
    from rich.console import Console

    return Console().is_jupyter


def first_rank() -> bool:
    """Whether this process is the one of those started by `torchrun` that speaks; true when there is only one."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """Tell a person something, a line on stderr; not with --quiet."""
    if not manner().quiet:
        warn(text)


def warn(text: str) -> None:
    """Tell a person what they should know whatever they asked for, a line on stderr."""
    print(visible(text), file=sys.stderr, flush=True)


def finished(made: str, where: object, *following: object) -> None:
    """End a command: say what it made, where that is, and the command that usually follows, as it is typed."""
    say(f"{made}: {where}")
    say(f"next: {shlex.join(map(str, following))}")


def print_line(text: str) -> None:
    """Print one result on stdout, as a line of its own whatever it holds."""
    print(visible(text))


def count(n: float, unit: str) -> str:
    """Write an amount with its unit: 5.1 GB, 2,540 M parameters, 38 images."""
    if unit != "B":
        return f"{n:,.0f} {unit}"
    for scale, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n >= scale:
            return f"{n / scale:.1f} {name}"
    return f"{n:.0f} B"


def clock(seconds: float) -> str:
    """Write a time as people do: 9.2 s, 4:05 min, 2:10 h, 3 days."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f}:{seconds % 60:02.0f} min"
    if seconds < 2 * 86400:
        return f"{seconds // 3600:.0f}:{seconds % 3600 // 60:02.0f} h"
    return f"{seconds / 86400:.0f} days"
