"""Workers that are processes: forks of this one, with its open files and its memory, and an interpreter of their own.

Threads share the interpreter's lock, which a worker gives up and takes again some twenty times for a block of a
millisecond. Where waking a waiting thread is slow, as in virtual machines, two threads then do little more than one:
eight merges of three ViT-L-14 took two threads 0.97 s in the median where they computed for 0.65 s.
"""

import gc
import os
import pickle
import signal
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, NoReturn

from soupkit.errors import SoupkitError
from soupkit.system import can_end_with_parent, end_with_parent

Worker = Callable[[], AbstractContextManager[Callable[[int], Any]]]


def can_fork() -> bool:
    """Whether processes can be forked here that end when this one does (Linux)."""
    return hasattr(os, "fork") and hasattr(os, "memfd_create") and can_end_with_parent()


def run_in_forks(count: int, jobs: int, worker: Worker, collect: Callable[[int, Any], None]) -> None:
    """Do the jobs 0 to `jobs` - 1 in `count` processes, of which this is one.

    Each process makes itself a `worker`, whose answer to a job goes to `collect`, always in this process. The first
    error stops all and is raised; SoupkitError when a process dies. Forks end with this process, whatever ends it.
    """
    queue = _Queue(jobs)
    forks: list[_Fork] = []
    try:
        for _ in range(min(count, jobs) - 1):
            forks.append(_Fork(queue, worker))
        with worker() as do:
            while (job := queue.take()) is not None:
                collect(job, do(job))
                _receive(forks, collect, timeout=0)
        while any(not f.finished for f in forks):
            _receive(forks, collect, timeout=None)
    finally:
        for fork in forks:
            fork.end()
        queue.close()


class _Queue:
    """Numbers 0 to n - 1, each taken by one process: a file whose position all forks share.

    A read takes a number and moves the position in one step, and nothing stays locked when a process is killed.
    """

    def __init__(self, n: int) -> None:
        self._file = os.memfd_create("jobs")
        os.write(self._file, b"".join(i.to_bytes(8, "little") for i in range(n)))
        os.lseek(self._file, 0, os.SEEK_SET)

    def take(self) -> int | None:
        """Return the next number, None when all are taken."""
        number = os.read(self._file, 8)
        return int.from_bytes(number, "little") if number else None

    def close(self) -> None:
        """Close this process's hold of the file."""
        os.close(self._file)


class _Fork:
    """One process besides the first: what it sends, and its end."""

    def __init__(self, queue: _Queue, worker: Worker) -> None:
        self.connection, send = Pipe(duplex=False)
        self.finished = False
        parent = os.getpid()
        with warnings.catch_warnings():
            # Other threads may run, which Python warns of: the fork takes no lock that is not its own.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._pid = os.fork()
        if not self._pid:
            _live(parent, send, queue, worker)
        send.close()

    def receive(self) -> "tuple[int, Any] | None":
        """Return the next job and its answer, None at the end. Raises what was raised in the fork."""
        try:
            message = self.connection.recv()
        except EOFError:
            _, status = os.waitpid(self._pid, 0)
            self._pid = 0
            how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "an error at its start"
            raise SoupkitError(
                f"was ended by {how}",
                "a worker process",
                "the system may be short of memory; the same command goes on where it stopped",
            ) from None
        if isinstance(message, BaseException):
            raise message
        self.finished = message is None
        return message

    def end(self) -> None:
        """Kill the process if it still runs, and wait for its end."""
        self.connection.close()
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0


def _receive(forks: list[_Fork], collect: Callable[[int, Any], None], timeout: float | None) -> None:
    """Collect what has come, or wait for something to come where `timeout` is None."""
    live = {f.connection: f for f in forks if not f.finished}
    for connection in wait(list(live), timeout):
        answer = live[connection].receive()  # type: ignore[index]
        if answer is not None:
            collect(*answer)


def _live(parent: int, send: Connection, queue: _Queue, worker: Worker) -> NoReturn:
    """What a fork does from its first moment to its last."""
    try:
        # Ctrl-C reaches all processes of a terminal; the first one decides, and ends this one.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        end_with_parent(parent)
        gc.freeze()  # what was there stays shared: the collector would write to all of it
        with worker() as do:
            while (job := queue.take()) is not None:
                send.send((job, do(job)))
        send.send(None)
        os._exit(0)
    except BaseException as error:
        with suppress(Exception):
            send.send(error if _picklable(error) else _unexpected(error))
    finally:
        # Not sys.exit: what the first process would do at its end is not this one's to do.
        os._exit(1)


def _unexpected(error: BaseException) -> SoupkitError:
    return SoupkitError(
        f"ended with an unexpected {type(error).__name__}: {error}",
        "a worker process",
        "run it again with --threads 1 and --debug, and report what that shows",
    )


def _picklable(error: BaseException) -> bool:
    try:
        return isinstance(pickle.loads(pickle.dumps(error)), type(error))
    except Exception:
        return False
