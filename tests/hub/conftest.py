"""A Hub of our own, and soupkit in real processes that know no other."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import environment
from tests.hub.repos import TOKEN
from tests.hub.server import HubServer

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
    """Run soupkit, or with `python=` a program, as a user of that Hub."""

    def run(
        *arguments: object, token: str | None = TOKEN, python: str | None = None, **more: str
    ) -> subprocess.CompletedProcess[str]:
        start = [sys.executable, "-c", python] if python is not None else [sys.executable, "-m", "soupkit"]
        done = subprocess.run(
            [*start, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=120,
            env=hub_environment(hub.url, home, token, **more),
        )
        assert TOKEN not in done.stdout + done.stderr
        return done

    return run
