"""What the tables say of the machine and of the spread of what was measured on it."""

import os
import platform
import statistics
from pathlib import Path


def spread(values: list[float]) -> str:
    """Write median, least and largest."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def machine() -> str:
    """Name the machine."""
    with Path("/proc/cpuinfo").open() as file:
        cpu = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{len(os.sched_getaffinity(0))} cores ({cpu}), {memory:.0f} GB, Linux {platform.release()}"
