"""Ctrl-C and SIGTERM: the run ends at the end of a step, with a checkpoint, whoever else in its group is signalled.

`timeout`, schedulers and terminals signal every process of a job. The processes that read the data therefore leave both
signals to the process that they work for: it still needs them for the step that it is in.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from soupkit.ranks import Ranks

_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM})
# `timeout` signals its child and then the whole group, and `torchrun` passes on what its ranks may have had already.
_SAME_WISH = 2.0  # seconds


class Stop:
    """Whether this process was asked to end."""

    asked = False

    def on(self, ranks: Ranks) -> bool:
        """Whether any rank was asked; the same on all of them."""
        return any(ranks.gather(self.asked)) if ranks.size > 1 else self.asked


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Turn Ctrl-C and SIGTERM into a wish that is granted at the end of a step.

    Asked once more, some seconds later, the process does not wait: KeyboardInterrupt.
    """
    stop, first = Stop(), 0.0

    def ask(number: int, frame: Any) -> None:
        nonlocal first
        now = time.monotonic()
        if stop.asked and now - first > _SAME_WISH:
            raise KeyboardInterrupt
        first = first if stop.asked else now
        stop.asked = True

    before: dict[int, Any] = {}
    try:
        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            before[number] = signal.signal(number, ask)
    except ValueError:  # not the main thread, which alone may do this
        pass
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def held_signals() -> Iterator[None]:
    """Hold both signals back, so that processes forked meanwhile are born with them blocked."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows, where no process is forked
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_signals_to_parent(worker: int) -> None:
    """In a worker process: end with the parent or on its SIGTERM, and on nobody else's SIGTERM or SIGINT."""
    if not hasattr(signal, "sigtimedwait"):  # macOS and Windows: torch's own watch ends it with its parent
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    # Only waiting for a signal tells who sent it. torch ends its workers by SIGTERM where nothing else helps.
    while os.getppid() == parent:
        told = signal.sigtimedwait(_SIGNALS, 1.0)
        if told is not None and told.si_signo == signal.SIGTERM and told.si_pid == parent:
            break
    os._exit(0)
