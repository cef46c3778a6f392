"""Real processes without the seconds that each would spend on importing torch: forks of one server that has it loaded.

A fork is a process like any other: it has its own arguments, directory and streams, and dies of a real signal.
"""

import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.forkserver import ensure_running
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# The one server of all tests. It imports and computes nothing, so that its forks are clean.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "open_clip",
        "torch.distributed.run",
        "rich.table",
        "soupkit.cli.main",
        "soupkit.merging.run_merge",
        "soupkit.training.step",
        "tests.processes",
        "tests.training.contrastive",
    ]
)


def environment() -> dict[str, str]:
    """What processes under test see: one thread, and a terminal that does nothing special."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}


def fork(work: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Run `work`, a function of a module, in a process of its own."""
    before = dict(os.environ)
    os.environ.update(environment())  # the server reads it when it starts, before it imports torch
    try:
        ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    process = SERVER.Process(target=work, args=arguments)
    process.start()
    return process


def _become(directory: str, variables: dict[str, str], streams: tuple[str, str]) -> None:
    """Take on a directory, an environment, and two files as output."""
    for number, path in zip((1, 2), streams, strict=True):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - it lives as long as the process
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(directory)


def run_soupkit(arguments: list[str], directory: str, variables: dict[str, str], streams: tuple[str, str]) -> None:
    """Be the command line: what `python -m soupkit` does, its output in two files."""
    _become(directory, variables, streams)
    sys.argv = ["soupkit", *arguments]
    from soupkit.__main__ import main

    main()


def run_script(arguments: list[str], directory: str, variables: dict[str, str], streams: tuple[str, str]) -> None:
    """Be a script: what `python SCRIPT ...` does."""
    _become(directory, variables, streams)
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")


def run_torchrun(arguments: list[str], directory: str, variables: dict[str, str], streams: tuple[str, str]) -> None:
    """Be `torchrun`; the ranks that it starts are processes of their own, from the interpreter on."""
    _become(directory, variables, streams)
    from torch.distributed.run import main

    main(arguments)


class Running:
    """A process at work, and what it writes."""

    def __init__(
        self,
        work: Callable[..., None],
        arguments: list[str],
        cwd: Path | None = None,
        variables: dict[str, str] | None = None,
    ) -> None:
        self.arguments = arguments
        self._place = TemporaryDirectory()
        streams = (f"{self._place.name}/out", f"{self._place.name}/err")
        self._streams = [Path(s) for s in streams]
        self.process = fork(work, arguments, str(cwd or Path.cwd()), variables or environment(), streams)

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.is_alive()

    def wait(self, timeout: float = 200) -> subprocess.CompletedProcess[str]:
        """Wait for the end; the exit code is the negated signal where that ended the process."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise subprocess.TimeoutExpired(self.arguments, timeout)
        out, err = (s.read_text("utf-8") if s.exists() else "" for s in self._streams)
        self._place.cleanup()
        return subprocess.CompletedProcess(self.arguments, self.process.exitcode, out, err)

    def kill(self, number: signal.Signals) -> subprocess.CompletedProcess[str]:
        """Send a signal, and wait for the end."""
        if self.alive:
            os.kill(self.pid, number)
        return self.wait()


def start_soupkit(*arguments: object, cwd: Path | None = None, variables: dict[str, str] | None = None) -> Running:
    """Start the command line in a process of its own."""
    return Running(run_soupkit, [str(a) for a in arguments], cwd, variables)


def soupkit(*arguments: object, cwd: Path | None = None, timeout: float = 200) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return start_soupkit(*arguments, cwd=cwd).wait(timeout)


def start_torchrun(ranks: int, *arguments: object) -> Running:
    """Start the command line under `torchrun`."""
    launch = ["--standalone", f"--nproc-per-node={ranks}", "-m", "soupkit"]
    return Running(run_torchrun, [*launch, *map(str, arguments)])


def ranks(count: int, *arguments: object) -> list[subprocess.CompletedProcess[str]]:
    """Run the command line in `count` processes that find each other as those of `torchrun` do, without its seconds."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    places = [{**environment(), **meeting, "RANK": str(i), "LOCAL_RANK": str(i)} for i in range(count)]
    running = [start_soupkit(*arguments, variables=place) for place in places]
    return [r.wait() for r in running]


def children(pid: int) -> list[int]:
    """The processes that `pid` has started and that live."""
    return [int(p) for tasks in Path(f"/proc/{pid}/task").glob("*/children") for p in tasks.read_text().split()]


def gone(pid: int) -> bool:
    """Whether a process has ended, also where nobody has asked for its exit code yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
