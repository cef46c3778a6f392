"""Work for other libraries, done in a process apart: what it imports, holds in memory and prints stays there.

A library that builds a model from somebody's config may take any time and memory, and reach for the network: the
process has an end of each, and no network.
"""

import os
import pickle
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from typing import Any, NoReturn, TypeVar

from soupkit.system import end_with_parent, resource

_SECONDS = 120.0
_MEMORY = 8 << 30  # bytes beyond what this process holds
_Answer = TypeVar("_Answer")


def apart(work: Callable[..., _Answer], *arguments: Any) -> _Answer | str:
    """Return what `work` returns, a function of a module; or a line that says why it returned nothing."""
    if hasattr(os, "fork"):
        return _in_a_fork(work, arguments)
    return _in_an_interpreter(work, arguments)


def _in_a_fork(work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Fork: what is imported here need not be imported once more."""
    receive, send = Pipe(duplex=False)
    parent = os.getpid()
    with warnings.catch_warnings():
        # Other threads may run, which Python warns of: the fork takes no lock that is not its own.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if not pid:
        _live(parent, send, work, arguments)
    send.close()
    try:
        return receive.recv() if receive.poll(_SECONDS) else _too_long()
    except EOFError:
        return "the process that asked the library was ended"
    finally:
        receive.close()
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _live(parent: int, send: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> NoReturn:
    """What a fork does from its first moment to its last."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process decides, and ends this one
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        end_with_parent(parent)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(nowhere, descriptor)
        import torch

        torch.set_num_threads(1)  # the threads of the first process are not here
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


def _answer(work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
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
