"""Ctrl-C where no command is at work: the process leaves at once and in silence, with the exit code of an interrupt.

Python's own answer, a KeyboardInterrupt wherever the program happens to be, is right for a command that has something
to leave resumable. While modules are still being imported, or after the last result, it is only a traceback.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130  # what a shell reports for SIGINT


def leave_at_once() -> None:
    """Let SIGINT end the process, unless whoever started it wants the signal ignored (as `nohup` and `&` do)."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


@contextmanager
def interruptible() -> Iterator[None]:
    """Within, SIGINT is a KeyboardInterrupt again; after it, what it was before."""
    quiet = signal.getsignal(signal.SIGINT) is _leave
    if quiet:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if quiet:
            signal.signal(signal.SIGINT, _leave)
