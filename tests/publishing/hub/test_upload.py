"""Both ways in which large files travel to the Hub: the same arrives, it is counted, and it goes on after a kill."""

import json
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import soupkit
from soupkit.publishing.hub.push import PushOptions, publish
from tests import processes
from tests.hub.server import HubServer
from tests.hub.user import Run, hub_environment
from tests.hub.xet import CAS_TOKEN

WEIGHTS = "open_clip_model.safetensors"
XET = {"HF_HUB_DISABLE_XET": "0"}
StartAs = Callable[..., processes.Started]


@pytest.mark.parametrize("fault", [None, {"status": 503}, {"drop_after": 0}], ids=["well", "503", "cut"])
def test_over_xet_the_same_arrives(
    fault: dict[str, Any] | None, hub: HubServer, as_user: Run, tiny_clips: list[Path], tmp_path: Path
) -> None:
    assert as_user("merge", *tiny_clips[1:], "-o", tmp_path / "soup").returncode == 0
    told = hub.fail("POST", "/xet/v1/xorbs/", **fault) if fault else None
    done = as_user("push", tmp_path / "soup", "org/soup", "--license", "mit", "--json", **XET)
    assert done.returncode == 0, done.stderr
    assert told is None or told.times == 0
    assert hub.files("org/soup")[WEIGHTS] == (tmp_path / "soup" / WEIGHTS).read_bytes()
    assert not hub.asked("PUT", "/lfs/") and not hub.asked("POST", "objects/batch")
    assert all(h["authorization"] == f"Bearer {CAS_TOKEN}" for h in hub.asked("POST", "/xet/"))
    again = as_user("push", tmp_path / "soup", "org/soup", "--json", **XET)
    assert json.loads(again.stdout)["status"] == "unchanged" and len(hub.asked("POST", "/xet/v1/shards")) == 1


class Recorder:
    """Progress that remembers its counts."""

    def __init__(self) -> None:
        self.label, self.total, self.counts = "", 0, [0]

    def start(self, label: str, total: int, unit: str) -> None:
        if label.startswith("sending"):
            self.label, self.total, self.counts = f"{label}, {unit}", total, []

    def advance(self, n: int) -> None:
        self.counts.append(n)

    def note(self, text: str) -> None: ...

    def finish(self) -> None:
        if self.label:
            print(json.dumps([self.label, self.total, self.counts]), flush=True)
            self.label = ""


def counted_push(soup: Path) -> None:
    publish(soup, "org/soup", options=PushOptions(license="mit"), progress=Recorder())


@pytest.mark.parametrize("off", ["1", "0"], ids=["lfs", "xet"])
def test_an_upload_is_counted_in_bytes_and_a_part_that_is_sent_twice_once(
    off: str, hub: HubServer, home: Path, tiny_clips: list[Path], tmp_path: Path
) -> None:
    soupkit.merge(tiny_clips[1:], tmp_path / "soup")
    hub.fail("PUT", "/part/2", status=500)
    env = {**hub_environment(hub.url, home), "HF_HUB_DISABLE_XET": off}
    done = processes.call(counted_push, tmp_path / "soup", env=env)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    label, total, counts = json.loads(done.stdout)
    assert label == "sending to org/soup, B"
    assert total == sum(len(data) for path, data in hub.files("org/soup").items() if path != ".gitattributes")
    assert sum(counts) == total and len(counts) > 1 and min(counts) > 0


def test_killed_while_xet_sends_the_same_command_ends_it(
    hub: HubServer, as_user: Run, start_as_user: StartAs, tiny_clips: list[Path], tmp_path: Path
) -> None:
    assert as_user("merge", *tiny_clips[1:], "-o", tmp_path / "soup").returncode == 0
    stuck = hub.fail("POST", "/xet/v1/xorbs/", hold=threading.Event(), status=500)
    going = start_as_user("push", tmp_path / "soup", "org/soup", "--license", "mit", **XET)
    hub.wait_for("POST", "/xet/v1/xorbs/")
    going.signal(signal.SIGKILL)
    going.wait()
    assert stuck.hold is not None
    stuck.hold.set()
    assert WEIGHTS not in hub.files("org/soup")
    done = as_user("push", tmp_path / "soup", "org/soup", "--license", "mit", **XET)
    assert done.returncode == 0, done.stderr
    assert hub.files("org/soup")[WEIGHTS] == (tmp_path / "soup" / WEIGHTS).read_bytes()
