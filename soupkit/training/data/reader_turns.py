"""Reading and computing by turns, where a machine has not cores enough for both at once.

A parallel region ends when its slowest thread does: a process that decodes an image on one core meanwhile holds up the
threads on all others. The readers therefore work while the model waits for them, on every core, and rest while it
computes.
"""

import os
import select
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Whose turn it is, for processes forked after this was made: a pipe holds a byte while it is the readers'.

    Nothing is locked, so that a reader may be killed at any moment.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    def wait(self) -> None:
        """In a reader: wait for the readers' turn."""
        poll = select.poll()  # a descriptor may be too large for `select`
        poll.register(self._read, select.POLLIN)
        poll.poll()

    @contextmanager
    def readers(self) -> Iterator[None]:
        """Let the readers work for the time of a `with` block, in the process that waits for them."""
        os.write(self._write, b"!")
        try:
            yield
        finally:
            os.read(self._read, 1)

    def close(self) -> None:
        """Give the readers the last turn, in which they end."""
        os.write(self._write, b"!")
        os.close(self._write)
        os.close(self._read)
