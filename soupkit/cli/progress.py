"""Progress as a person watches it: a bar on a terminal, plain lines in logs and pipes."""

import sys
import threading
import time
from typing import TYPE_CHECKING

from soupkit.cli.manner import manner
from soupkit.cli.output import count, first_rank, plain_console, say

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from soupkit.progress import Progress

_PLAIN_INTERVAL = 5.0  # seconds between lines where there is no terminal


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
            console=plain_console(stderr=True),
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
            self._bar.console.print(text)
        else:
            say(text)

    def finish(self) -> None:
        """End the job and leave the bar as it stands."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None


def terminal_progress() -> "Progress":
    """Return a bar on a terminal, plain lines elsewhere, silence with --quiet. Of several ranks only the first
    speaks."""
    if not first_rank() or manner().quiet:
        from soupkit.progress import SILENT

        return SILENT
    return BarProgress() if sys.stderr.isatty() else PlainProgress()
