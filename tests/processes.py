"""Real processes without the seconds that each would spend on importing torch: forks of one server that has it loaded.

A fork is a process like any other: it has its own arguments, directory and streams, and dies of a real signal.
"""

import importlib
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
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
        "rich.progress",
        # What a run, a search or a report imports on its way takes as long as their work on small models.
        "scipy.stats",
        "matplotlib.backends.backend_agg",
        "matplotlib.backends.backend_svg",
        "soupkit.cli.main",
        "soupkit.cli.search_output",
        "soupkit.checkpoint.formats.rows",
        "soupkit.evaluation.run_evaluation",
        "soupkit.merging.run_merge",
        "soupkit.merging.methods.matrices",
        "soupkit.merging.methods.spheres",
        "soupkit.merging.methods.dropped",
        "soupkit.publishing.reports.page",
        "soupkit.recipe.run",
        "soupkit.training.step",
        "soupkit.training.trainer",
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
    if "huggingface_hub.constants" in sys.modules:  # it has read the environment of the server
        importlib.reload(sys.modules["huggingface_hub.constants"])


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


def _run_function(
    work: Callable[..., None],
    arguments: tuple[Any, ...],
    directory: str,
    variables: dict[str, str],
    streams: tuple[str, str],
) -> None:
    _become(directory, variables, streams)
    work(*arguments)


class Started:
    """Something that goes on in a process of its own, and what it writes."""

    _fork = staticmethod(fork)

    def __init__(
        self,
        work: Callable[..., None],
        what: tuple[Any, ...],
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        self._what = what
        self._place = TemporaryDirectory()
        self._streams = (f"{self._place.name}/out", f"{self._place.name}/err")
        self.process = self._fork(work, *what, str(cwd or Path.cwd()), env or environment(), self._streams)

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.is_alive()

    @property
    def stderr(self) -> str:
        """What it has said so far."""
        return self._read(1)

    def _read(self, stream: int) -> str:
        path = Path(self._streams[stream])
        return path.read_text("utf-8") if path.exists() else ""

    def signal(self, number: int) -> None:
        """Send a signal; one that has ended hears nothing."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self, timeout: float = 200) -> subprocess.CompletedProcess[str]:
        """Wait for the end; the exit code is the negated signal where that ended the process."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.terminate()  # `torchrun` ends its ranks
            self.process.join(10)
            self.process.kill()
            raise subprocess.TimeoutExpired(str(self._what), timeout)
        return subprocess.CompletedProcess(self._what, self.process.exitcode, self._read(0), self._read(1))


def start(*arguments: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> Started:
    """Start the command line in a process of its own, and do not wait for it."""
    return Started(run_soupkit, ([str(a) for a in arguments],), cwd, env)


def soupkit(
    *arguments: object, cwd: Path | None = None, timeout: float = 200, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return start(*arguments, cwd=cwd, env=env).wait(timeout)


def call(
    work: Callable[..., None], *arguments: Any, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `work`, a function of a module, in a process of its own with its own environment."""
    return Started(_run_function, (work, arguments), None, env).wait()


def start_torchrun(count: int, *arguments: object) -> Started:
    """Start the command line under `torchrun`."""
    launch = ["--standalone", f"--nproc-per-node={count}", "-m", "soupkit"]
    return Started(run_torchrun, ([*launch, *map(str, arguments)],))


def rank_environments(count: int) -> list[dict[str, str]]:
    """What each of `count` ranks sees: what `torchrun` would tell it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    return [{**environment(), **meeting, "RANK": str(i), "LOCAL_RANK": str(i)} for i in range(count)]


def start_ranks(count: int, *arguments: object, cwd: Sequence[Path | None] | None = None) -> list[Started]:
    """Start the command line in `count` processes that see what `torchrun` would tell them, without its seconds; `cwd`
    is the directory of each."""
    places = rank_environments(count)
    return [start(*arguments, cwd=at, env=place) for at, place in zip(cwd or [None] * count, places, strict=True)]


def on_ranks(count: int, *arguments: object, timeout: float = 200) -> list[subprocess.CompletedProcess[str]]:
    """Run the command line on so many ranks, to its end."""
    return [rank.wait(timeout) for rank in start_ranks(count, *arguments)]


def children(pid: int) -> list[int]:
    """The processes that `pid` has started and that live."""
    return [int(p) for tasks in Path(f"/proc/{pid}/task").glob("*/children") for p in tasks.read_text().split()]


def gone(pid: int) -> bool:
    """Whether a process has ended, also where nobody has asked for its exit code yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
