"""How long work tells what it is doing without printing: a small protocol, silent by default."""

from typing import Protocol


class Progress(Protocol):
    """What a caller may watch. One job at a time: `start`, any number of `advance`, `state` and `note`, `finish`.

    >>> class Counting(Silent):
    ...     done = 0
    ...     def advance(self, n):
    ...         self.done += n
    >>> counting = Counting()
    >>> soup = soupkit.merge(["runs/a", "runs/b"], "soups/mean", progress=counting)
    >>> 0 < counting.done <= soup.bytes_written
    True
    """

    def start(self, label: str, total: int, unit: str) -> None:
        """Begin a job of `total` units ("B" for bytes, "images", "samples"); 0 when the total is not known."""

    def advance(self, n: int) -> None:
        """`n` more units are done. Called from any thread."""

    def state(self, text: str) -> None:
        """How the job stands ("loss 0.42, lr 0.0004"), in place of what was said of it before."""

    def note(self, text: str) -> None:
        """Say one thing a person should know, whether or not a job is running."""

    def finish(self) -> None:
        """The job is over."""


class Silent:
    """Progress that nobody watches.

    >>> SILENT.start("merge", 2, "B")
    """

    def start(self, label: str, total: int, unit: str) -> None:
        """Do nothing."""

    def advance(self, n: int) -> None:
        """Do nothing."""

    def state(self, text: str) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""


SILENT: Progress = Silent()
