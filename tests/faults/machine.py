"""A machine that is odd, and not broken: what is written there must be what is written anywhere."""

import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tests.faults.layer import Disk, Fault
from tests.kills.points import Place
from tests.processes import Started, run_soupkit

MOST = 4099  # bytes that one call reads or writes: a prime, so that it falls nowhere in particular


def jumping_clock(seed: int) -> None:
    """Let the time of day jump by up to a day, forwards and backwards, with every look at it."""
    jumps, now, now_ns = random.Random(seed), time.time, time.time_ns
    time.time = lambda: now() + jumps.uniform(-86_400, 86_400)
    time.time_ns = lambda: now_ns() + jumps.randint(-86_400, 86_400) * 10**9


def _odd(arguments: list[str], root: str, directory: str, variables: dict[str, str], streams: tuple[str, str]) -> None:
    """Be the command line where a thousand signals a second interrupt all calls, reads and writes are short, the time
    of day jumps, few files may be open, and a group shares its files."""
    os.umask(0o002)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    jumping_clock(0)
    signal.signal(signal.SIGALRM, lambda number, frame: None)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    Disk(root, Fault(most=MOST), lambda line: None).install()
    run_soupkit(arguments, directory, variables, streams)


def run_oddly(arguments: Sequence[object], place: Place) -> subprocess.CompletedProcess[str]:
    """Run a command on an odd machine."""
    words = [str(a) for a in arguments]
    return place.process(_odd, (words, str(place.root)), place.root, place.environments()[0]).wait(400)


def _limited(
    arguments: list[str], limit: str, bounds: int | tuple[int, int], directory: str, variables: dict[str, str],
    streams: tuple[str, str],
) -> None:  # fmt: skip
    if isinstance(bounds, int):  # more than it has already
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        bounds = (pages * resource.getpagesize() + bounds,) * 2
    resource.setrlimit(getattr(resource, limit), bounds)
    run_soupkit(arguments, directory, variables, streams)


def limited(
    arguments: Sequence[object], limit: str, bounds: int | tuple[int, int], place: Place | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command where a limit of `resource` is as low and as high as `bounds` (one number: so many bytes more than
    the process has before it begins)."""
    work = ([str(a) for a in arguments], limit, bounds)
    if place is None:
        return Started(_limited, work).wait()
    return place.process(_limited, work, place.root, place.environments()[0]).wait()


def modes(root: Path, known: set[Path]) -> dict[str, str]:
    """Return the permissions of all files and directories that are not `known`, in octal; links have none."""
    return {
        str(path.relative_to(root)): f"{path.stat().st_mode & 0o777:o}"
        for path in sorted(root.rglob("*"))
        if path not in known and not path.is_symlink()
    }
