"""Weights from the Hub: a download that is cut goes on where it stopped."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path

import torch

from tests.conftest import random_state, save
from tests.hub.server import HubServer
from tests.hub.user import Run, files_of
from tests.processes import Started

WEIGHTS = "open_clip_model.safetensors"


def test_a_download_whose_process_is_killed_goes_on_where_it_stopped(
    hub: HubServer, as_user: Run, start_as_user: Callable[..., Started], tmp_path: Path, home: Path
) -> None:
    # The client keeps what came in pieces of 10 MB.
    a, b = (
        save(tmp_path / n, {**random_state(i), "visual.long": torch.linspace(0, 1, 4_000_000)})
        for i, n in enumerate("ab")
    )
    hub.put("org/a", files_of(a))
    stuck = hub.fail("GET", "/cdn/", drop_after=13_000_000, hold=threading.Event(), skip=1)  # the first: the header
    command = ("merge", "hf-hub:org/a", b, "-o", tmp_path / "far")
    going = start_as_user(*command)
    hub.wait_until(lambda: any(p.stat().st_size >= 10_000_000 for p in home.rglob("*.incomplete")))
    going.signal(signal.SIGKILL)
    going.wait()
    assert stuck.hold is not None
    stuck.hold.set()
    assert not (tmp_path / "far").exists()
    done = as_user(*command)
    assert done.returncode == 0, done.stderr
    starts = [int(h["range"].split("=")[1].split("-")[0]) for h in hub.asked("GET", "/cdn/") if "range" in h]
    assert max(starts) >= 10_000_000, "what had come is not fetched again"
    assert as_user("merge", a, b, "-o", tmp_path / "local").returncode == 0
    assert (tmp_path / "far" / WEIGHTS).read_bytes() == (tmp_path / "local" / WEIGHTS).read_bytes()
