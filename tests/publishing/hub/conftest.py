"""Soups to be published: real ones of two tiny models."""

import json
import shutil
from pathlib import Path

import pytest

import soupkit
from tests.publishing.conftest import score


@pytest.fixture(scope="session")
def plain_soup(tiny_clips: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A soup of two open_clip models with one score beside it."""
    directory = tmp_path_factory.mktemp("plain") / "soup"
    result = soupkit.merge(tiny_clips[1:], directory)
    assert result.fingerprint is not None
    scores = [{**score("x", 0.75), "fingerprint": result.fingerprint}]
    (directory / "scores.json").write_text(json.dumps({"scores": scores}))
    return directory


@pytest.fixture
def small_soup(plain_soup: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(plain_soup, tmp_path / "soup"))
