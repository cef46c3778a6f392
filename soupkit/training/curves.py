"""What a run measures as it goes on: JSON lines in its directory and, by choice, TensorBoard or trackio."""

import importlib
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Literal, Protocol

from soupkit.errors import UsageError
from soupkit.files import MOST_KEPT_BYTES, parse_json, read_text, storage_error, write_whole

METRICS_NAME = "metrics.jsonl"
TENSORBOARD_NAME = "tensorboard"
Tracker = Literal["tensorboard", "trackio"]


def check_trackers(names: Sequence[Tracker]) -> None:
    """Raise UsageError for a tracker that is not installed."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UsageError(f"{name} is not installed", "report_to", f"pip install {name}") from error


class _Sink(Protocol):
    def write(self, samples: int, values: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class Curves:
    """The curves of one run. A line of metrics.jsonl holds `samples` and what was measured there.

    A continuation drops what the lost steps wrote.
    """

    def __init__(self, directory: Path, samples: int, run: str = "", report_to: Sequence[Tracker] = ()) -> None:
        """`samples` is where the run goes on; `run` is what a tracker calls it. Raises StorageError."""
        self._path = directory / METRICS_NAME
        self._scored = -1
        kept = []
        try:
            written = read_text(self._path, most=MOST_KEPT_BYTES, errors="replace") if self._path.is_file() else ""
            for line in written.splitlines():
                try:
                    entry = parse_json(line)
                    past = entry["samples"] > samples
                except (ValueError, TypeError, KeyError):
                    break  # the line that a kill cut short
                if not past:
                    kept.append(line)
                    self._scored = entry["samples"] if "scores" in entry else self._scored
        except OSError as error:
            raise storage_error(error, self._path, 0) from error
        write_whole(self._path, "".join(f"{line}\n" for line in kept))
        makers: dict[Tracker, Callable[[Path, int, str], _Sink]] = {"tensorboard": _TensorBoard, "trackio": _Trackio}
        self._sinks: list[_Sink] = [makers[name](directory, samples, run) for name in report_to]

    def scored(self, samples: int) -> bool:
        """Whether the last scores that are written were taken after this many samples."""
        return self._scored == samples

    def write(self, samples: int, values: dict[str, float | None]) -> None:
        """Add what one step measured. None stands for a number that is not finite. Raises StorageError."""
        self._line({"samples": samples, **values})
        self._tell(samples, {k: v for k, v in values.items() if v is not None})

    def write_scores(self, samples: int, scores: dict[str, dict[str, Any]]) -> None:
        """Add the scores of one evaluation, by what was scored and on what. Raises StorageError."""
        self._line({"samples": samples, "scores": scores})
        self._tell(samples, {name: score["value"] for name, score in scores.items()})
        self._scored = samples

    def _line(self, entry: dict[str, Any]) -> None:
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry, allow_nan=False) + "\n")
        except OSError as error:
            raise storage_error(error, self._path, 0) from error

    def _tell(self, samples: int, values: dict[str, float]) -> None:
        for sink in self._sinks:
            sink.write(samples, values)

    def close(self) -> None:
        """Let the trackers write what they hold back."""
        for sink in self._sinks:
            sink.close()


class _TensorBoard:
    """Event files in the run's directory; the step that TensorBoard shows is the count of samples."""

    def __init__(self, directory: Path, samples: int, run: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What the lost steps wrote is hidden from there on.
        purge = samples + 1 if samples else None
        self._writer: Any = SummaryWriter(str(directory / TENSORBOARD_NAME), purge_step=purge)

    def write(self, samples: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, samples)

    def close(self) -> None:
        self._writer.close()


class _Trackio:
    """A run of trackio, in the project that is named after the directory of the runs."""

    def __init__(self, directory: Path, samples: int, run: str) -> None:
        self._trackio: Any = importlib.import_module("trackio")
        run_directory = directory.resolve()
        resume = "allow" if samples else "never"
        with redirect_stdout(sys.stderr):  # it greets on stdout, which is for what the command prints
            self._trackio.init(
                project=run_directory.parent.name or "soupkit", name=run or run_directory.name, resume=resume
            )

    def write(self, samples: int, values: dict[str, float]) -> None:
        self._trackio.log(values, step=samples)

    def close(self) -> None:
        with redirect_stdout(sys.stderr):
            self._trackio.finish()
