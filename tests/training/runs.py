"""What the tests of whole runs share: a tiny run, its weights, and processes of its own to signal."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from soupkit.progress import Silent
from soupkit.training import TrainOptions, train
from soupkit.training.entry import TrainEntry
from soupkit.training.model import build, find_start
from tests.conftest import TINY_MODEL
from tests.processes import Started, run_soupkit

WEIGHTS = "open_clip_model.safetensors"
IN_PROCESS = TrainOptions(device="cpu", workers=0, threads=1, cache=None)


def settings(**fields: Any) -> dict[str, Any]:
    usual = {
        "model": TINY_MODEL, "data": {"shards": "digits:train"}, "batch_size": 16, "samples": 96, "lr": 1e-3,
        "warmup": 32, "patch_dropout": 0.5, "ema": 0.9, "grad_clip": 1.0,
    }  # fmt: skip
    return {**usual, **fields}


def clip_of_digits(place: Path, samples: int) -> Path:
    """Train a CLIP on the digits' captions, the longer the better, and return where it lies."""
    data = {"shards": "digits:train", "balanced": True}
    run = settings(
        data=data, batch_size=80, samples=samples, warmup=samples // 4, lr=2e-3, ema=None, patch_dropout=0
    )  # fmt: skip
    train(run, place, options=IN_PROCESS)
    return place


def entry(**fields: Any) -> TrainEntry:
    usual = {"model": TINY_MODEL, "data": {"shards": "digits:train"}, "batch_size": 8, "samples": 64, "lr": 1e-3}
    return TrainEntry.model_validate({**usual, **fields})


def model_of(run: TrainEntry) -> torch.nn.Module:
    return build(run, find_start(run), torch.device("cpu"))[0]


class Interrupting(Silent):
    """SIGTERM to this very process after some steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.notes: list[str] = []

    def advance(self, n: int) -> None:
        if n:
            self.steps -= 1
        if not self.steps:
            os.kill(os.getpid(), signal.SIGTERM)

    def note(self, text: str) -> None:
        self.notes.append(text)


def weights(place: Path) -> list[bytes]:
    """The final weights and their average."""
    return [(place / WEIGHTS).read_bytes(), (place / "ema" / WEIGHTS).read_bytes()]


def _leading_a_group(arguments: list[str], directory: str, variables: dict[str, str], streams: tuple[str, str]) -> None:
    os.setsid()
    run_soupkit(arguments, directory, variables, streams)


def start_train(place: Path, *arguments: object) -> Started:
    """Start `soupkit train` in `place`, as the leader of a process group."""
    return Started(_leading_a_group, (["train", *map(str, arguments)],), place)


def wait_until(there: Callable[[], object], process: Started) -> None:
    """Wait for something that a process is to bring about."""
    deadline = time.monotonic() + 120
    while not there():
        assert process.alive and time.monotonic() < deadline, f"it ended, or took too long: {process.stderr}"
        time.sleep(0.01)
