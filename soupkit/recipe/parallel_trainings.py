"""Trainings side by side, each in a process of its own: started, watched, waited for and, when need be, stopped."""

import json
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from soupkit.errors import SoupkitError
from soupkit.progress import Progress
from soupkit.recipe.steps import TrainStep
from soupkit.system import cores
from soupkit.training import TrainOptions
from soupkit.training.entry import TrainEntry


@dataclass(slots=True)
class _Going:
    """A training that goes on: its process, since when, which of the `jobs` slots it has, and how it failed."""

    step: TrainStep
    process: subprocess.Popen[str]
    since: float
    slot: int
    error: SoupkitError | None = None


class Trainings:
    """Up to `jobs` trainings at a time. A context manager: on leaving it none is left."""

    def __init__(self, jobs: int, options: TrainOptions, progress: Progress) -> None:
        self._jobs, self._options, self._progress = jobs, options, progress
        self._events: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
        self.going: dict[str, _Going] = {}

    def __enter__(self) -> "Trainings":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.going:
            self._stop()

    def start(self, step: TrainStep, entry: TrainEntry, output: Path | None, ready: int) -> None:
        """Begin the training of `entry` into `output`. `ready` are the samples of all that could begin now."""
        slot = min(set(range(self._jobs)) - {g.slot for g in self.going.values()})
        options = {**asdict(self._options), **self._share(slot)}
        order = {
            "entry": entry.model_dump(mode="json"),
            "output": str(output),
            "options": {k: _plain(v) for k, v in options.items()},
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "soupkit.recipe.training_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,  # Ctrl-C comes to this process alone, which passes it on once
        )
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # it is dead already; what it died of is seen when it is waited for
        if not self.going:
            self._progress.start("training", ready, "samples")
        self.going[step.name] = _Going(step, process, time.perf_counter(), slot)
        threading.Thread(target=self._listen, args=(step.name, process), daemon=True).start()

    def _share(self, slot: int) -> dict[str, Any]:
        """Return this training's part of the machine: a GPU in turn, and its share of the cores."""
        share: dict[str, Any] = {}
        if self._options.device == "auto" and (count := torch.cuda.device_count()) > 1:
            share["device"] = f"cuda:{slot % count}"
        return {**share, "cores": max(1, cores() // self._jobs)}

    def _listen(self, name: str, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._events.put((name, json.loads(line)))
        process.wait()
        self._events.put((name, {"event": "ended"}))

    def wait(self) -> tuple[TrainStep, float, SoupkitError | None]:
        """Return the next training that ends: its step, its seconds, and what it failed with, if it did."""
        while True:
            name, event = self._events.get()
            going = self.going[name]
            if event["event"] == "advance":
                if event["state"]:
                    self._progress.state(f"{name.partition('.')[2]}: {event['state']}")
                self._progress.advance(event["n"])
            elif event["event"] == "note":
                self._progress.note(f"{name.partition('.')[2]}: {event['text']}")
            elif event["event"] == "error":
                going.error = pickle.loads(bytes.fromhex(event["error"]))  # our own process wrote it
            elif event["event"] == "ended":
                del self.going[name]
                if going.process.stdin is not None:
                    going.process.stdin.close()
                if not self.going:
                    self._progress.finish()
                return going.step, time.perf_counter() - going.since, going.error or _death(name, going.process)

    def _stop(self) -> None:
        """Ask all to stop with a checkpoint, and wait until they have; whoever asks twice does not wait."""
        self._progress.note(f"stopping {len(self.going)} trainings, each with a checkpoint")
        try:
            for going in self.going.values():
                going.process.send_signal(signal.SIGTERM)
            while self.going:
                self.wait()
        except KeyboardInterrupt:
            for going in self.going.values():
                going.process.kill()
                going.process.wait()
            self.going.clear()
            self._progress.finish()


def _death(name: str, process: subprocess.Popen[str]) -> SoupkitError | None:
    """Return what became of a process that said nothing of an error; None where all is well."""
    if process.returncode == 0:
        return None
    if process.returncode < 0:
        how = f"was killed by {signal.Signals(-process.returncode).name}"
        return SoupkitError(how, name, "is there enough memory? the same command goes on with it")
    return SoupkitError("was stopped", name, "the same command goes on with it")


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def training_options(fields: dict[str, Any]) -> TrainOptions:
    """Return the options that `Trainings.start` wrote down."""
    paths = {k: Path(v) for k, v in fields.items() if k == "cache" and v is not None}
    return TrainOptions(**{**fields, **paths})


def training_entry(fields: dict[str, Any]) -> TrainEntry:
    """Return the entry that `Trainings.start` wrote down."""
    return TrainEntry.model_validate(fields)
