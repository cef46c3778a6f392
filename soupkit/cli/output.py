"""What every command shares on the terminal: the JSON document, messages for people, and progress."""

import json
import math
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soupkit.errors import StorageError, UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from soupkit.progress import Progress

_PLAIN_INTERVAL = 5.0  # seconds between lines where there is no terminal


def print_json(command: str, fields: dict[str, Any]) -> None:
    """Print the one JSON document of a command on stdout. NaN and infinities become null.

    Exits with 1, in silence, where nobody reads it any more (`soupkit inspect REF --json | head -1`).
    """
    try:
        sys.stdout.write(_document(command, fields))
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is flushed at the exit
        sys.exit(1)


def check_file(path: Path | None, option: str = "-o") -> None:
    """Raise UsageError where no file can be written to `path`: found out before the work, not after it."""
    if path is not None and not path.resolve().parent.is_dir():
        raise UsageError("lies in no directory that exists", f"{option} {path}")
    if path is not None and path.is_dir():
        raise UsageError("is a directory", f"{option} {path}", "name a file")


def write_json(path: Path, command: str, fields: dict[str, Any]) -> None:
    """Write the same document to a file, whole or not at all. A pipe or a device is written to as it is, and a link
    stays one. Raises StorageError."""
    text, partial = _document(command, fields), None
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_text(text)
            return
        target = path.resolve()
        partial = target.with_name(target.name + ".partial")
        partial.write_text(text)
        partial.replace(target)
    except OSError as error:
        if partial is not None:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
        raise StorageError(f"cannot be written: {error.strerror}", path) from error


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


def plain_console() -> "Console":
    """Return a console that prints names as they are: `digits:train:` holds no emoji, a path in brackets no markup."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def first_rank() -> bool:
    """Whether this process is the one of those started by `torchrun` that speaks; true when there is only one."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """Tell a person something, on stderr."""
    print(text, file=sys.stderr, flush=True)


def count(n: float, unit: str) -> str:
    """Write an amount with its unit: 5.1 GB, 2,540 M parameters, 38 images."""
    if unit != "B":
        return f"{n:,.0f} {unit}"
    for scale, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n >= scale:
            return f"{n / scale:.1f} {name}"
    return f"{n:.0f} B"


class PlainProgress:
    """Progress as plain lines on stderr, one every few seconds, for logs and pipes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._label, self._total, self._unit, self._done = "", 0, "", 0
        self._started = self._spoken = 0.0

    def start(self, label: str, total: int, unit: str) -> None:
        """Begin a job."""
        self._label, self._total, self._unit, self._done = label, total, unit, 0
        self._started = self._spoken = time.monotonic()

    def advance(self, n: int) -> None:
        """Count `n` more units; speaks when a few seconds have passed since the last line."""
        with self._lock:
            self._done += n
            now = time.monotonic()
            if now - self._spoken < _PLAIN_INTERVAL:
                return
            self._spoken = now
            rate = self._done / max(now - self._started, 1e-9)
        line = f"{self._label}: {count(self._done, self._unit)}"
        if self._total:
            left = (self._total - self._done) / rate if rate else 0.0
            line += f" of {count(self._total, self._unit)}, {count(rate, self._unit)}/s, {left:.0f} s left"
        say(line)

    def note(self, text: str) -> None:
        """Say something at once."""
        say(text)

    def finish(self) -> None:
        """End the job with one line that says what it took."""
        seconds = time.monotonic() - self._started
        if seconds < 1 and self._spoken == self._started:
            return  # a line about nothing
        say(f"{self._label}: {count(self._done, self._unit)} in {seconds:.1f} s")


class BarProgress:
    """Progress as a bar with rate and remaining time, for a terminal."""

    def __init__(self) -> None:
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    def start(self, label: str, total: int, unit: str) -> None:
        """Begin a job: show a bar."""
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        amount = [DownloadColumn(), TransferSpeedColumn()] if unit == "B" else [MofNCompleteColumn(), TextColumn(unit)]
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            *amount,
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._bar.start()
        self._task = self._bar.add_task(label, total=total or None)

    def advance(self, n: int) -> None:
        """Move the bar by `n` units."""
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, n)

    def note(self, text: str) -> None:
        """Say something above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False, emoji=False)
        else:
            say(text)

    def finish(self) -> None:
        """End the job and leave the bar as it stands."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None


def terminal_progress() -> "Progress":
    """Return a bar on a terminal, plain lines elsewhere. Of several ranks only the first speaks."""
    if not first_rank():
        from soupkit.progress import SILENT

        return SILENT
    return BarProgress() if sys.stderr.isatty() else PlainProgress()
