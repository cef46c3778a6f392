"""Kill points: every call of a command that changes which files there are, and what is on disk just before each.

A command runs in a forked process whose `os` calls are wrapped: renames, unlinks, mkdirs, rmdirs, links, truncations
and files opened for writing anew, below one directory. Before each the process is killed (`kill_at`), or the directory
is copied as a kill would leave it (`every_point`): what a process holds in its own memory is in neither, and locks are
those of open files, which a copy has not.
"""

import io
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.processes import Started, environment, rank_environments, run_soupkit

_CALLS = ("rename", "replace", "unlink", "remove", "mkdir", "rmdir", "link", "symlink", "truncate", "ftruncate")
_OF_TWO = ("rename", "replace", "link", "symlink")
# What tells the time, or the speed.
_TIMES = {"seconds", "timings", "samples_per_s"}
_LOG = "points.txt"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a command runs, in `ranks` processes that see `variables`: `root` is all that it may change on disk; beside
    it lie copies and the log of its calls. `process` starts each of them."""

    root: Path
    ranks: int = 1
    variables: Mapping[str, str] = field(default_factory=dict)
    process: type[Started] = Started

    @property
    def log(self) -> Path:
        return self.root.with_name(_LOG)

    @property
    def untouched(self) -> Path:
        """A copy of all, as it is before the command runs."""
        return self.root.with_name("untouched")

    def keep_untouched(self) -> None:
        """Make that copy, or let all be as it has it."""
        if self.untouched.exists():
            restore(self, self.untouched)
        else:
            shutil.copytree(self.root, self.untouched, symlinks=True)

    def copy(self, number: int) -> Path:
        return self.root.with_name(f"before-{number}")

    def environments(self) -> list[dict[str, str]]:
        """What each of the processes sees."""
        (self.root / "tmp").mkdir(exist_ok=True)
        home = {"SOUPKIT_CACHE": str(self.root / "cache"), "TMPDIR": str(self.root / "tmp"), "HF_HUB_OFFLINE": "1"}
        return [
            {**env, **home, **self.variables}
            for env in ([environment()] if self.ranks == 1 else rank_environments(self.ranks))
        ]


def _wrap(root: str, act: Callable[[int, str], None], *, network: bool) -> None:
    """Call `act` with a number and a name before every call of this process that changes which files there are, and
    before all that it sends over the network if that counts."""
    lock, owner = threading.RLock(), os.getpid()

    def before(name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        paths = arguments[: 2 if name in _OF_TWO else 1]
        if os.getpid() != owner or not any(_below(root, path, named) for path in paths):
            return
        with lock:
            act(f"{name} {' '.join(map(str, paths))}")

    def wrapped(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **named: Any) -> Any:
            before(name, arguments, named)
            return call(*arguments, **named)

        return watched

    for name in _CALLS:
        watched = wrapped(name, getattr(os, name))
        for supported in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks):
            if getattr(os, name) in supported:
                supported.add(watched)
        setattr(os, name, watched)
    opened = io.open

    def watched_open(file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        if "w" in mode and isinstance(file, str | os.PathLike):
            before("open", (file,), {})
        return opened(file, mode, *arguments, **named)

    io.open = watched_open  # type: ignore[assignment]
    import builtins

    builtins.open = watched_open  # type: ignore[assignment]
    if network:
        send = socket.socket.send

        def watched_send(connection: socket.socket, data: Any, *flags: int) -> int:
            with lock:
                act(f"send {bytes(data[:60])!r}")
            return send(connection, data, *flags)

        socket.socket.send = watched_send  # type: ignore[method-assign]


def _below(root: str, path: Any, named: dict[str, Any]) -> bool:
    if isinstance(path, int):  # a descriptor
        path = _opened(path)
    elif named.get("dir_fd") is not None:
        path = _opened(named["dir_fd"]) + os.sep + os.fsdecode(path)
    try:
        return os.path.abspath(os.fsdecode(path)).startswith(root + os.sep)  # noqa: PTH100
    except TypeError:
        return False


def _opened(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


def _watched(
    arguments: list[str], root: str, mode: str, number: int, directory: str, variables: dict[str, str],
    streams: tuple[str, str],
) -> None:  # fmt: skip
    place = Place(Path(root))
    log = os.open(place.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    copying, points = [False], itertools.count(1)

    def act(call: str) -> None:
        if copying[0]:  # by this very function: a relative link is made below the root by its name
            return
        point = next(points)
        os.write(log, f"{point} {call}\n".encode("utf-8", "replace"))
        if mode == "kill" and point == number:
            os.kill(os.getpid(), signal.SIGKILL)
        if mode == "copy":
            copying[0] = True
            try:
                _copy(place.root, place.copy(point))
            finally:
                copying[0] = False

    _wrap(root, act, network="HF_ENDPOINT" in variables)
    run_soupkit(arguments, directory, variables, streams)


def _copy(source: Path, target: Path) -> None:
    """Copy a directory that may change meanwhile: what vanishes is as if it had vanished before."""
    shutil.rmtree(target, ignore_errors=True)
    for _ in range(20):
        try:
            shutil.copytree(source, target, symlinks=True)
            return
        except shutil.Error:
            shutil.rmtree(target)
    raise AssertionError(f"{source} never stood still")


def start(arguments: Sequence[object], place: Place, mode: str = "", number: int = 0) -> list[Started]:
    """Start the processes of a command; the first one is watched where there is a `mode`."""
    words = [str(a) for a in arguments]
    first, *others = place.environments()
    if mode:
        leader = place.process(_watched, (words, str(place.root), mode, number), place.root, first)
    else:
        leader = place.process(run_soupkit, (words,), place.root, first)
    return [leader, *(place.process(run_soupkit, (words,), place.root, env) for env in others)]


def wait(processes: list[Started]) -> subprocess.CompletedProcess[str]:
    """Wait for all of them, and return what came of the first; the others cannot go on without it."""
    done = processes[0].wait(400)
    for other in processes[1:]:
        other.wait(400)
    return done


def every_point(arguments: Sequence[object], place: Place) -> list[str]:
    """Run a command to its end with a copy of its directory before every point; return what the points are."""
    place.log.unlink(missing_ok=True)
    done = wait(start(arguments, place, "copy"))
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-3000:]}"
    return place.log.read_text("utf-8").splitlines() if place.log.exists() else []


def count_points(arguments: Sequence[object], place: Place) -> list[str]:
    """Run a command to its end, and return what its points are."""
    place.log.unlink(missing_ok=True)
    done = wait(start(arguments, place, "count"))
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-3000:]}"
    return place.log.read_text("utf-8").splitlines()


def kill_at(arguments: Sequence[object], place: Place, number: int) -> bool:
    """Run a command and kill it before point `number`; False where it ended before."""
    place.log.unlink(missing_ok=True)
    done = wait(start(arguments, place, "kill", number))
    assert done.returncode in (0, -signal.SIGKILL), f"exit code {done.returncode}: {done.stderr[-3000:]}"
    return done.returncode != 0


def run_again(arguments: Sequence[object], place: Place) -> str:
    """Run a command undisturbed, and return what it says on stderr. AssertionError where it fails."""
    done = wait(start(arguments, place))
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-3000:]}"
    return done.stderr


def restore(place: Place, copy: Path) -> None:
    """Let the directory be as `copy` has it. Files that are the same stay where they are: a command may know those that
    it reads by more than their bytes."""
    for path in sorted(place.root.rglob("*"), reverse=True):
        wanted = copy / path.relative_to(place.root)
        if path.is_dir() and not path.is_symlink():
            if not wanted.is_dir() or wanted.is_symlink():
                path.rmdir()
        elif not _same(path, wanted):
            path.unlink()
    for path in sorted(copy.rglob("*")):
        target = place.root / path.relative_to(copy)
        if path.is_dir() and not path.is_symlink():
            target.mkdir(exist_ok=True)
        elif not os.path.lexists(target):
            shutil.copy2(path, target, follow_symlinks=False)


def _same(path: Path, other: Path) -> bool:
    """Whether two files are of one kind, time and content."""
    if not os.path.lexists(other) or path.lstat().st_mode != other.lstat().st_mode:
        return False
    if path.is_symlink():
        return path.readlink() == other.readlink()
    return path.stat().st_mtime_ns == other.stat().st_mtime_ns and path.read_bytes() == other.read_bytes()


def contents(root: Path) -> dict[str, object]:
    """Return all that lies below `root`: directories, links, and files without what tells the time.

    Temporary files do not count, nor do remembered fingerprints: their names tell a file by its inode and its time.
    """
    return {
        str(path.relative_to(root)): _content(path)
        for path in sorted(root.rglob("*"))
        if path.relative_to(root).parts[0] != "tmp" and path.parent.name != "fingerprints"
    }


def _content(path: Path) -> object:
    if path.is_symlink():
        return f"-> {os.readlink(path)}"  # noqa: PTH115
    if path.is_dir():
        return None
    data = path.read_bytes()
    if path.suffix not in (".json", ".jsonl"):
        return data
    try:
        return [_timeless(json.loads(line)) for line in (data.splitlines() if path.suffix == ".jsonl" else [data])]
    except ValueError:
        return data


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k not in _TIMES}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def differences(got: dict[str, object], wanted: dict[str, object]) -> str:
    """Say where two directories differ; empty where they do not."""
    lost = [f"lacks {name}" for name in wanted if name not in got]
    left = [f"has {name} left over" for name in got if name not in wanted]
    other = [f"has another {name}" for name in wanted if name in got and got[name] != wanted[name]]
    return "; ".join([*lost, *left, *other][:8])


def chosen(points: int, most: int | None) -> Iterator[int]:
    """Yield the numbers of at most `most` points, evenly spread, the last ones always: there an end is put in place."""
    if most is None or points <= most:
        yield from range(1, points + 1)
        return
    last = max(1, most // 2)
    early = max(1, most - last)
    step = (points - last) / early
    yield from sorted({1 + int(i * step) for i in range(early)} | set(range(points - last + 1, points + 1)))


def check(
    arguments: Sequence[object], place: Place, most: int | None = None, *, kill: bool = False
) -> tuple[int, list[str]]:
    """Kill a command before each of its points (of `most` of them), run it again, and compare what there is then with
    an undisturbed run. Return how many points were tried, and what went wrong.

    `place` holds what the command reads. With `kill` the process is killed each time; without, the copies are
    taken that one run has left of every moment.
    """
    place.keep_untouched()
    points = every_point(arguments, place)
    wanted, failures, tried = contents(place.root), [], 0
    for number in chosen(len(points), most):
        restore(place, place.untouched if kill else place.copy(number))
        if kill and not kill_at(arguments, place, number):
            continue
        tried += 1
        try:
            run_again(arguments, place)
            wrong = differences(contents(place.root), wanted)
        except AssertionError as error:
            wrong = str(error)
        if wrong:
            failures.append(f"killed before {points[number - 1]}: {wrong}")
    for number in range(1, len(points) + 1):
        shutil.rmtree(place.copy(number), ignore_errors=True)
    return tried, failures
