"""Seconds by the wall's clock or by the processor's, for a machine that has other work to do too."""

import time
from collections.abc import Callable

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}


def timed(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds that `work` takes."""
    started = clock()
    work()
    return clock() - started
