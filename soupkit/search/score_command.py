"""A score that is a command: run by the shell on a soup's directory, within a time, again where it failed."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from soupkit.errors import StorageError
from soupkit.files import storage_error
from soupkit.progress import Progress
from soupkit.search.custom_score import SEED, CustomScore
from soupkit.search.score_answer import Answer, ScoreError, read_answer
from soupkit.search.shell_words import with_model
from soupkit.system import KILL

_GRACE = 5.0  # seconds that a command has to end by itself when it is stopped
_POLL = 0.05
_TAIL = 2000  # characters of its error output that an error shows
# What torchrun tells the ranks of a search: a script that read it would wait for as many of its own kind.
_OF_RANKS = {
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_NAME",
    "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
}  # fmt: skip
_OF_TORCHRUN = "TORCHELASTIC_"
_NOT_RUN = {126: "cannot be run", 127: "is not found"}  # exit codes of the shell's own


class CommandAsker:
    """Runs the command of `score` on `model`; what it prints is kept in `output`, two files for each soup.

    Its environment says `SOUPKIT_MODEL` and `SOUPKIT_SEED`, and nothing of the ranks that torchrun made for the search.
    It is asked about whole soups alone.
    """

    by_images = False

    def __init__(self, score: CustomScore, model: Path, output: Path, seed: int, progress: Progress) -> None:
        self._score, self._model, self._output, self._seed, self._progress = score, model, output, seed, progress

    def ask(self, name: str) -> Answer:
        """Return what the command answers. Raises ScoreError when it fails each time, takes too long, or answers what
        is no number; StorageError where its output cannot be kept."""
        for left in reversed(range(self._score.retries + 1)):
            try:
                return self._ask_once(name)
            except ScoreError as error:
                if not left:
                    raise
                self._progress.note(f"{error.sentence}; asked again")
        raise AssertionError("a command is asked at least once")

    def ask_about(self, name: str, images: np.ndarray) -> np.ndarray:
        """Raise ScoreError: a command has no way to be told which images."""
        raise ScoreError("is not asked about some images alone", f"score of {name}", "ask about the whole soup")

    def _ask_once(self, name: str) -> Answer:
        model = str(self._model.resolve())
        command = with_model(self._score.asks.replace(SEED, str(self._seed)), model)
        told = {"SOUPKIT_MODEL": model, "SOUPKIT_SEED": str(self._seed)}
        said, errors = (self._output / f"{name}.{kind}" for kind in ("out", "err"))
        try:
            self._output.mkdir(parents=True, exist_ok=True)
            with said.open("wb") as out, errors.open("wb") as err:
                process = subprocess.Popen(
                    command, shell=True, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                    env={**_environment(), **told},
                    start_new_session=True,
                )  # fmt: skip
                code = self._wait(process, errors)
        except OSError as error:
            raise storage_error(error, self._output, 0) from error
        where = f"score of {name}"
        if code:
            how = f"ended with exit code {code}" if code > 0 else f"was ended by {signal.Signals(-code).name}"
            hint = f"what it printed is in {said} and {errors}"
            if code in _NOT_RUN:
                hint = f"something {_NOT_RUN[code]}, says the shell; it is /bin/sh, which may know '.' and no 'source'"
            raise ScoreError(f"the command {how}{_tail(errors)}", where, hint)
        try:
            text = said.read_text("utf-8", "replace")
        except OSError as error:
            raise StorageError(f"cannot be read: {error.strerror}", said, "run the same command again") from error
        try:
            return read_answer(text, where, self._score.key)
        except ScoreError as error:  # what failed in a pipe that ended well has said so there
            raise ScoreError(
                f"{error.what}{_tail(errors)}", error.where, f"{error.hint}; what it printed is in {said}"
            ) from error

    def _wait(self, process: subprocess.Popen[bytes], errors: Path) -> int:
        """Wait for the command; end it, with all that it started, when it takes too long or the search is ended."""
        started = time.monotonic()
        try:
            while process.poll() is None:
                if self._score.timeout is not None and time.monotonic() - started > self._score.timeout:
                    raise ScoreError(
                        f"the command took longer than {self._score.timeout:g} s{_tail(errors)}", "--score-timeout",
                        "give it more, or find out why it hangs",
                    )  # fmt: skip
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL)
        finally:
            _end(process)
        return process.returncode


def _environment() -> dict[str, str]:
    """Return this process's environment for one that is no rank of the search."""
    return {k: v for k, v in os.environ.items() if k not in _OF_RANKS and not k.startswith(_OF_TORCHRUN)}


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a command and all that it started, if any of it still runs."""
    for how in (signal.SIGTERM, KILL):
        if process.poll() is not None and how is signal.SIGTERM:
            return
        with suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, how)
            else:
                process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
            return


def _tail(errors: Path) -> str:
    """Return the end of what a command said on its error output, to be added to a sentence."""
    with suppress(OSError):
        text = errors.read_text("utf-8", "replace").strip()
        if text:
            return f": {' | '.join(text[-_TAIL:].splitlines()[-3:])}"
    return ""
