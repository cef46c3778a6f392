"""Fixtures: a Hub of our own, and soupkit in real processes that know no other."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import processes
from tests.hub.repos import TOKEN
from tests.hub.server import HubServer
from tests.processes import environment

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


def hub_environment(url: str, home: Path, token: str | None = TOKEN, **more: str) -> dict[str, str]:
    """The environment of a user whose Hub is at `url`; Xet is off, since the server speaks LFS only."""
    inherited = {k: v for k, v in environment().items() if not k.startswith(("HF_", "HUGGING"))}
    own = {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return {**inherited, **own, **({"HF_TOKEN": token} if token else {}), **more}


def files_of(directory: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in directory.iterdir()}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "hf-home"


@pytest.fixture
def as_user(hub: HubServer, home: Path) -> Run:
    """Run soupkit, or with `python=` a program in a new interpreter, as a user of that Hub."""

    def run(
        *arguments: object, token: str | None = TOKEN, python: str | None = None, **more: str
    ) -> subprocess.CompletedProcess[str]:
        env = hub_environment(hub.url, home, token, **more)
        if python is None:
            done = processes.soupkit(*arguments, timeout=120, env=env)
        else:
            command = [sys.executable, "-c", python, *map(str, arguments)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
        assert TOKEN not in done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def start_as_user(hub: HubServer, home: Path) -> Callable[..., processes.Started]:
    """Start soupkit as a user of that Hub, and do not wait for it."""

    def start(*arguments: object, **more: str) -> processes.Started:
        return processes.start(*arguments, env=hub_environment(hub.url, home, **more))

    return start
