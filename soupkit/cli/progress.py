"""Progress as a person watches it: a bar on a terminal, plain lines in logs and pipes."""

import sys
import threading
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING

from soupkit.cli.manner import manner
from soupkit.cli.output import clock, count, first_rank, in_notebook, plain_console, say

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from soupkit.progress import Progress

_NOTEBOOK_DELAY = 0.5  # seconds before a job in a notebook has a bar
_SHORTEST_INTERVAL, _LONGEST_INTERVAL = 5.0, 60.0  # seconds between lines where there is no terminal
_OF_A_LONG_JOB = 0.05  # of the time that it has taken: a job of days says less often that it is alive


class PlainProgress:
    """Progress as plain lines on stderr, one every few seconds, for logs and pipes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._label, self._total, self._unit, self._done, self._state = "", 0, "", 0, ""
        self._started = self._spoken = 0.0
        self._tenth = 0

    def start(self, label: str, total: int, unit: str) -> None:
        """Begin a job."""
        self._label, self._total, self._unit, self._done, self._state = label, total, unit, 0, ""
        self._started = self._spoken = time.monotonic()
        self._tenth = 0

    def advance(self, n: int) -> None:
        """Count `n` more units; speaks at every tenth of the job, and between them at first about every minute."""
        with self._lock:
            self._done += n
            now = time.monotonic()
            tenth = 10 * self._done // self._total if self._total else self._tenth
            quiet = now - self._spoken
            longest = max(_LONGEST_INTERVAL, _OF_A_LONG_JOB * (now - self._started))
            if quiet < _SHORTEST_INTERVAL or (tenth == self._tenth and quiet < longest):
                return
            self._spoken, self._tenth = now, tenth
            rate = self._done / max(now - self._started, 1e-9)
        line = f"{self._label}: {count(self._done, self._unit)}"
        if self._total:
            left = (self._total - self._done) / rate if rate else 0.0
            line += f" of {count(self._total, self._unit)}, {count(rate, self._unit)}/s, {clock(left)} left"
        say(f"{line}, {self._state}" if self._state else line)

    def state(self, text: str) -> None:
        """Keep how the job stands, for the next line."""
        self._state = text

    def note(self, text: str) -> None:
        """Say something at once."""
        say(text)

    def finish(self) -> None:
        """End the job with one line that says what it took."""
        seconds = time.monotonic() - self._started
        if seconds < 1 and self._spoken == self._started and not manner().verbose:
            return  # a line about nothing
        say(_finished(self._label, self._done, self._unit, seconds, self._state))


class BarProgress:
    """Progress as one line on a terminal: the job, a bar, the share, the rate and the time left, whatever its width."""

    def __init__(self) -> None:
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._label, self._total, self._unit, self._state, self._done = "", 0, "", "", 0
        self._started: float | None = None
        self._tenth = 0
        self._lock = threading.Lock()

    def start(self, label: str, total: int, unit: str) -> None:
        """Begin a job: show its line; in a notebook, where each leaves an empty cell, once it has lasted."""
        self._label, self._total, self._unit, self._state, self._done = label, total, unit, "", 0
        self._started, self._tenth = time.monotonic(), 0
        if not in_notebook():
            self._draw()

    def _draw(self) -> None:
        from rich.progress import Progress

        from soupkit.cli.progress_line import ProgressLine

        self._bar = Progress(ProgressLine(self._unit), console=plain_console(stderr=True), transient=True, expand=True)
        self._bar.start()
        self._task = self._bar.add_task(self._label, total=self._total or None, state=self._state)

    def advance(self, n: int) -> None:
        """Move the bar by `n` units. Of a job that says how it stands, every tenth leaves a line above it."""
        with self._lock:
            self._done += n
            if self._bar is None and self._started is not None and time.monotonic() - self._started > _NOTEBOOK_DELAY:
                self._draw()
        if self._bar is None or self._task is None:
            return
        self._bar.update(self._task, completed=self._done)
        tenth = int(10 * self._done / self._total) if self._total else 0
        if self._state and self._tenth < tenth < 10:
            self._tenth = tenth
            self.note(f"{self._label}: {10 * tenth} %, {count(self._done, self._unit)}, {self._state}")

    def state(self, text: str) -> None:
        """Show how the job stands, in its line."""
        self._state = text
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, state=text)

    def note(self, text: str) -> None:
        """Say something above the bar."""
        if self._bar is not None:
            self._bar.console.print(text)
        else:
            say(text)

    def finish(self) -> None:
        """End the job: one line that says what it took stands where the bar was."""
        if self._started is None:
            return
        seconds, self._started = time.monotonic() - self._started, None
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None
        if seconds >= 1 or manner().verbose:
            say(_finished(self._label, self._done, self._unit, seconds, self._state))


def _finished(label: str, done: float, unit: str, seconds: float, state: str) -> str:
    line = f"{label}: {count(done, unit)} in {clock(seconds)}"
    return f"{line}, {state}" if state else line


def terminal_progress() -> "Progress":
    """Return a bar on a terminal, plain lines elsewhere, silence with --quiet. Of several ranks only the first
    speaks."""
    if not first_rank() or manner().quiet:
        from soupkit.progress import SILENT

        return SILENT
    # rich draws in a notebook with the help of ipywidgets.
    drawn = sys.stderr.isatty() or (in_notebook() and find_spec("ipywidgets") is not None)
    return BarProgress() if drawn else PlainProgress()
