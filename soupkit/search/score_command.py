"""A score that is a command: run by the shell on a soup's directory, within a time, again where it failed."""

import os
import shlex
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from soupkit.errors import StorageError
from soupkit.files import storage_error
from soupkit.progress import Progress
from soupkit.search.custom_score import MODEL, SEED, Answer, CustomScore, ScoreError, read_answer
from soupkit.system import KILL

_GRACE = 5.0  # seconds that a command has to end by itself when it is stopped
_POLL = 0.05
_TAIL = 2000  # characters of its error output that an error shows


class CommandAsker:
    """Runs the command of `score` on `model`; what it prints is kept in `output`, two files for each soup.

    Its environment says `SOUPKIT_MODEL` and `SOUPKIT_SEED`. It is asked about whole soups alone.
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
        command = self._score.asks.replace(MODEL, shlex.quote(model)).replace(SEED, str(self._seed))
        environment = {**os.environ, "SOUPKIT_MODEL": model, "SOUPKIT_SEED": str(self._seed)}
        said, errors = (self._output / f"{name}.{kind}" for kind in ("out", "err"))
        try:
            self._output.mkdir(parents=True, exist_ok=True)
            with said.open("wb") as out, errors.open("wb") as err:
                process = subprocess.Popen(
                    command, shell=True, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment,
                    start_new_session=True,
                )  # fmt: skip
                code = self._wait(process, errors)
        except OSError as error:
            raise storage_error(error, self._output, 0) from error
        where = f"score of {name}"
        if code:
            how = f"ended with exit code {code}" if code > 0 else f"was ended by {signal.Signals(-code).name}"
            raise ScoreError(f"the command {how}{_tail(errors)}", where, f"what it printed is in {said} and {errors}")
        try:
            text = said.read_text("utf-8", "replace")
        except OSError as error:
            raise StorageError(f"cannot be read: {error.strerror}", said, "run the same command again") from error
        return read_answer(text, where)

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
