"""Real processes without the seconds that each would spend on importing torch: forks of one server that has it loaded.

A fork is a process like any other: it has its own arguments, directory and streams, and dies of a real signal.
"""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.forkserver import ensure_running
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["open_clip", "soupkit.cli.main", "soupkit.merging", "tests.processes"])


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
    process = _SERVER.Process(target=work, args=arguments)
    process.start()
    return process


def run_soupkit(arguments: list[str], directory: str, variables: dict[str, str], streams: tuple[str, str]) -> None:
    """Be the command line: what `python -m soupkit` does, its output in two files."""
    for number, path in zip((1, 2), streams, strict=True):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - it lives as long as the process
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(directory)
    sys.argv = ["soupkit", *arguments]
    from soupkit.cli.main import run

    run()


def soupkit(*arguments: object, cwd: Path | None = None, timeout: float = 200) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    texts = [str(a) for a in arguments]
    with TemporaryDirectory() as place:
        streams = (f"{place}/out", f"{place}/err")
        process = fork(run_soupkit, texts, str(cwd or Path.cwd()), environment(), streams)
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(["soupkit", *texts], timeout)
        out, err = (Path(s).read_text("utf-8") if Path(s).exists() else "" for s in streams)
    return subprocess.CompletedProcess(["soupkit", *texts], process.exitcode, out, err)
