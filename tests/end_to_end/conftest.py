"""Checkpoints large enough that a merge of them can be met half way, and how an error is shown."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from soupkit.merging import merge
from tests.conftest import bytes_of, random_state, save


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three of them. No test changes them."""
    paths, place = [], tmp_path_factory.mktemp("large")
    for i in range(3):
        state = random_state(i, torch.bfloat16)
        for k in range(24):
            generator = torch.Generator().manual_seed(100 * i + k)
            state[f"visual.transformer.resblocks.{k}.mlp.c_fc.weight"] = torch.randn(
                (2048, 1024), generator=generator
            ).to(torch.bfloat16)
        paths.append(save(place / f"large{i}", state))
    return paths


@pytest.fixture(scope="session")
def whole(large: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The soup of the large checkpoints, made without a fault."""
    soup = tmp_path_factory.mktemp("whole") / "soup"
    merge(large, soup)
    return bytes_of(soup)


@pytest.fixture(scope="session")
def inputs(large: list[Path]) -> list[dict[str, bytes]]:
    """The large checkpoints' bytes, before anything went wrong."""
    return [bytes_of(p) for p in large]


@pytest.fixture(autouse=True)
def ingredients_stay_as_they_are(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever goes wrong: no merge writes, replaces or even touches a file of its ingredients."""
    refs = [ref for name in ("three", "large") if name in request.fixturenames for ref in request.getfixturevalue(name)]

    def state() -> dict[Path, tuple[int, int, int]]:
        files = [file for ref in refs for file in ref.iterdir()]
        return {file: ((now := file.stat()).st_size, now.st_mtime_ns, now.st_ino) for file in files}

    before = state()
    yield
    assert state() == before or request.node.get_closest_marker("changes_ingredients")


def assert_error(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """Check the exit code, and that a person is told what is wrong without a traceback."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert re.search(word, done.stderr), f"{word!r} not in {done.stderr}"
