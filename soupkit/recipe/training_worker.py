"""One training of a run, in a process of its own (`python -m soupkit.recipe.training_worker`).

It reads what to do from the first line of stdin and tells what happens as JSON lines on stdout. When stdin ends, the
process that asked is gone, and the training stops with a checkpoint.
"""

import contextlib
import json
import os
import pickle
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

_INTERVAL = 0.2  # seconds between counts


class _Told:
    """Progress as events for the process that asked. It may be gone: that is no reason to lose a training."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._lock = stream, threading.Lock()
        self._unit, self._counted, self._last, self._state = "", 0, 0.0, ""

    def tell(self, event: str, **fields: Any) -> None:
        with self._lock, contextlib.suppress(OSError):
            self._stream.write(json.dumps({"event": event, **fields}) + "\n")
            self._stream.flush()

    def start(self, label: str, total: int, unit: str) -> None:
        self._unit = unit

    def advance(self, n: int) -> None:
        if self._unit != "samples":
            return
        self._counted += n
        if time.monotonic() - self._last >= _INTERVAL:
            self._count()

    def _count(self) -> None:
        n, self._counted, self._last = self._counted, 0, time.monotonic()
        self.tell("advance", n=n, state=self._state)

    def state(self, text: str) -> None:
        self._state = text

    def note(self, text: str) -> None:
        self.tell("note", text=text)

    def finish(self) -> None:
        if self._counted:
            self._count()


def main() -> int:
    """Train; the exit code is 0 done, 1 failed, 130 stopped."""
    told = _Told(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)  # whatever else prints is no event
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_stop_when_alone, daemon=True).start()
    from soupkit.errors import SoupkitError
    from soupkit.recipe.parallel_trainings import training_entry, training_options
    from soupkit.training import train

    try:
        train(
            training_entry(order["entry"]), Path(order["output"]),
            options=training_options(order["options"]), progress=told,
        )  # fmt: skip
    except KeyboardInterrupt:
        return 130
    except SoupkitError as error:
        told.tell("error", error=pickle.dumps(error).hex())
        return 1
    except Exception as error:
        unexpected = SoupkitError(f"unexpected {type(error).__name__}: {error}", order["output"], "a defect in soupkit")
        told.tell("error", error=pickle.dumps(unexpected).hex())
        raise
    return 0


def _stop_when_alone() -> None:
    """Wait until nobody holds the other end of stdin, then ask this process to stop, as SIGTERM does."""
    while os.read(0, 4096):  # not sys.stdin: its lock would be held at the end of the process
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
