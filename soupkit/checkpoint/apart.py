"""Work for other libraries, done in a process apart: what it imports, holds in memory and prints stays there.

A library that builds a model from somebody's config may take any time and memory, and reach for the network: the
process has an end of each, and no network. It works while this one goes on.
"""

import gc
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from multiprocessing.connection import Connection, Pipe
from typing import Any, Generic, NoReturn, TypeVar

from soupkit.system import end_with_parent, resource

_SECONDS = 120.0
_MEMORY = 8 << 30  # bytes beyond what this process holds
_Answer = TypeVar("_Answer")


def apart(work: Callable[..., _Answer], *arguments: Any) -> _Answer | str:
    """Return what `work` returns, a function of a module; or a line that says why it returned nothing."""
    with closing(Asked(work, arguments)) as asked:
        return asked.answer()


class Asked(Generic[_Answer]):
    """What a process apart is asked, from now on until it is closed: what `work` returns, a function of a module.

    `spared` are packages that are not imported for it: a library may import, where they are installed, more than the
    answer needs. Where there is none without them, it is asked once more with them. Without forks, the process has
    answered before this returns.
    """

    def __init__(self, work: Callable[..., _Answer], arguments: Sequence[Any], spared: Sequence[str] = ()) -> None:
        self._work, self._arguments, self._spared = work, arguments, tuple(spared)
        self._answer: _Answer | str | None = None
        self._fork: _Fork | None = None
        if hasattr(os, "fork"):
            self._fork = _Fork(work, arguments, self._spared)
        else:
            self._answer = _in_an_interpreter(work, tuple(arguments))

    def is_answered(self) -> bool:
        """Whether `answer` would return at once, as far as that can be told."""
        return self._fork is None or self._fork.is_done()

    def answer(self) -> _Answer | str:
        """Wait; return what `work` returned, or a line that says why it returned nothing."""
        while self._fork is not None:
            self._answer = self._fork.answer()
            self._fork.end()
            self._fork = None
            if isinstance(self._answer, str) and self._spared:
                self._spared = ()
                self._fork = _Fork(self._work, self._arguments, ())
        assert self._answer is not None
        return self._answer

    def close(self) -> None:
        """End the process if it is still at work."""
        if self._fork is not None:
            self._fork.end()
            self._fork = None


class _Fork:
    """A fork that works: what is imported here need not be imported once more."""

    def __init__(self, work: Callable[..., Any], arguments: Sequence[Any], spared: Sequence[str]) -> None:
        self._until = time.monotonic() + _SECONDS
        self._receive, send = Pipe(duplex=False)
        parent = os.getpid()
        with warnings.catch_warnings():
            # Other threads may run, which Python warns of: the fork takes no lock that is not its own.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._pid = os.fork()
        if not self._pid:
            _live(parent, send, work, arguments, spared)
        send.close()

    def is_done(self) -> bool:
        return self._receive.poll(0) or time.monotonic() > self._until

    def answer(self) -> Any:
        try:
            left = max(0.0, self._until - time.monotonic())
            return self._receive.recv() if self._receive.poll(left) else _too_long()
        except EOFError:
            return "the process that asked the library was ended"

    def end(self) -> None:
        """Kill the process if it still runs, and wait for its end."""
        self._receive.close()
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


def _live(
    parent: int, send: Connection, work: Callable[..., Any], arguments: Sequence[Any], spared: Sequence[str]
) -> NoReturn:
    """What a fork does from its first moment to its last."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process decides, and ends this one
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        end_with_parent(parent)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(nowhere, descriptor)
        gc.disable()  # what was there stays shared: the collector would write to all of it
        import torch

        torch.set_num_threads(1)  # the threads of the first process are not here
        for name in spared:
            sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # so Python knows of none by this name
        send.send(_answer(work, arguments))
        os._exit(0)
    finally:
        # Not sys.exit: what the first process would do at its end is not this one's to do.
        os._exit(1)


def _in_an_interpreter(work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    command = [sys.executable, "-c", "from soupkit.checkpoint.apart import serve; serve()"]
    try:
        done = subprocess.run(
            command, input=pickle.dumps((work, arguments)), capture_output=True, timeout=_SECONDS, check=True
        )
        return pickle.loads(done.stdout[done.stdout.rindex(_MARK) + len(_MARK) :])
    except subprocess.TimeoutExpired:
        return _too_long()
    except (OSError, ValueError, subprocess.CalledProcessError):
        return "the process that asked the library was ended"


_MARK = b"\nsoupkit's answer:\n"


def serve() -> None:
    """Answer the one request that is on the standard input: the life of an interpreter of its own."""
    work, arguments = pickle.load(sys.stdin.buffer)
    answer = pickle.dumps(_answer(work, arguments))
    sys.stdout.flush()
    sys.stdout.buffer.write(_MARK + answer)


def _answer(work: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    _limit()
    try:
        return work(*arguments)
    except BaseException as error:
        lines = str(error).strip().splitlines()
        return f"{type(error).__name__}: {lines[0][:200] if lines else 'no more is said'}"


def _limit() -> None:
    """Give this process no network, and an end of memory."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # asked for once by libraries that are imported from now on
    socket.socket.connect = _refuse  # type: ignore[method-assign]
    if resource is not None:
        with suppress(ValueError, OSError):
            held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            resource.setrlimit(resource.RLIMIT_DATA, (held + _MEMORY, resource.RLIM_INFINITY))


def _refuse(*_: Any) -> NoReturn:
    raise ConnectionRefusedError("no network here")


def _too_long() -> str:
    return f"the library took more than {_SECONDS:.0f} s"
