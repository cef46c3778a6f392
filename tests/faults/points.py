"""Faults of the disk, one after the other, in a command that runs in a process of its own."""

import errno
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from pathlib import Path

from tests.faults.layer import Disk, Fault
from tests.kills.points import Place, contents, differences, restore, run_again
from tests.processes import run_soupkit

ERRORS = (("read", errno.EIO), ("write", errno.EIO), ("write", errno.ENOSPC))


def _faulty(
    arguments: list[str], root: str, fault: tuple[str, int, int, int], directory: str, variables: dict[str, str],
    streams: tuple[str, str],
) -> None:  # fmt: skip
    """Be the command line on a disk that fails."""
    log = os.open(Place(Path(root)).log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    write = os.write
    Disk(root, Fault(*fault), lambda line: _note(write, log, line)).install()
    run_soupkit(arguments, directory, variables, streams)


def _note(write: object, log: int, line: str) -> None:
    write(log, f"{line}\n".encode("utf-8", "replace"))  # type: ignore[operator]


def run_with(fault: Fault, arguments: Sequence[object], place: Place) -> subprocess.CompletedProcess[str]:
    """Run a command with a fault."""
    words = [str(a) for a in arguments]
    work = (words, str(place.root), astuple(fault))
    return place.process(_faulty, work, place.root, place.environments()[0]).wait(400)


def calls(place: Place) -> list[str]:
    """Return what the last run has done on its disk: kind, number, call and path of each."""
    return place.log.read_text("utf-8").splitlines()


def spread(count: int, most: int) -> Iterator[int]:
    """Yield `most` numbers of 1 to `count`, evenly spread, the last one among them."""
    yield from sorted({max(1, round(count * (i + 1) / most)) for i in range(most)})


def wrong(fault: Fault, done: subprocess.CompletedProcess[str], place: Place, wanted: dict[str, object]) -> str:
    """Say what is wrong with what a command has made of a fault: it must have ended as if there had been none, or with
    an error that says what to do; never with another result. Empty where nothing is wrong."""
    if done.returncode == 0:
        found = differences(_results(contents(place.root)), _results(wanted))
        return f"exit code 0, and {found}" if found else ""
    if done.returncode != 1 or "error: " not in done.stderr or "hint: " not in done.stderr:
        return f"exit code {done.returncode}: {done.stderr[-1500:]}"
    if any(word in done.stderr for word in ("unexpected", "Traceback", "defect")):
        return done.stderr[-1500:]
    return ""


def _results(found: dict[str, object]) -> dict[str, object]:
    """Leave out what a command can do without: caches, and what it could not remove, which the next one does."""
    return {
        name: content
        for name, content in found.items()
        if not name.startswith("cache") and not any(part.endswith(".partial") for part in name.split("/"))
    }


def check(
    arguments: Sequence[object], place: Place, errors: Sequence[tuple[str, int]], most: int | None
) -> tuple[int, list[str]]:
    """Run a command with each error at every call that reads or writes (at `most` of them), and again without where it
    failed. Return how many errors it has met, and what went wrong."""
    place.keep_untouched()
    done = run_with(Fault(), arguments, place)
    assert done.returncode == 0, done.stderr
    wanted, made = contents(place.root), calls(place)
    failures, met = [], 0
    for kind, error in errors:
        count = sum(line.startswith(kind) for line in made)
        for number in range(1, count + 1) if most is None else spread(count, most):
            restore(place, place.untouched)
            fault = Fault(kind, number, error)
            done = run_with(fault, arguments, place)
            failing = [line for line in calls(place) if line.endswith(" fails")]
            met += bool(failing)
            found = wrong(fault, done, place, wanted)
            if not found and done.returncode:
                try:
                    run_again(arguments, place)
                    found = differences(_results(contents(place.root)), _results(wanted))
                except AssertionError as again:
                    found = f"then {again}"
            if found:
                failures.append(f"{os.strerror(error)} at {' '.join(failing[:1])}: {found}")
    return met, failures
