"""A directory as a user has it: fine-tunes, a recipe, a picture, scores, and a cache of its own."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import soupkit
from soupkit.cli.demo import RECIPE
from tests.publishing.conftest import score


class Brightness(nn.Module):
    """A classifier of two classes that needs no training: dark and light."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        light = images.mean(dim=(1, 2, 3)) * self.scale
        return torch.stack([1 - light, light], dim=1)


class Pictures(torch.utils.data.Dataset[tuple[Image.Image, int]]):
    """Six grey pictures, each with whether it is light."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if index >= 6:
            raise IndexError(index)
        return Image.new("RGB", (8, 8), (40 * index,) * 3), int(index > 2)


def to_tensor(picture: Image.Image) -> torch.Tensor:
    return torch.tensor(np.asarray(picture, dtype=np.float32)).permute(2, 0, 1) / 255  # [3, height, width]


@pytest.fixture
def here(tiny_clips: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory of a user."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOUPKIT_CACHE", str(tmp_path / "cache"))
    for name, clip in zip(("base", "a", "b"), tiny_clips, strict=True):
        shutil.copytree(clip, tmp_path / "runs" / name)
    shutil.copy(RECIPE, tmp_path / "recipe.yaml")
    for file in RECIPE.parent.glob("*.json"):
        shutil.copy(file, tmp_path / file.name)
    Image.new("RGB", (16, 16), (200, 30, 30)).save(tmp_path / "picture.png")
    (tmp_path / "scores.json").write_text(json.dumps({"scores": [score("runs/a", 0.5, split="test")]}))
    yield tmp_path
    os.chdir("/")


@pytest.fixture
def names(here: Path) -> dict[str, object]:
    """What the examples of docstrings use."""
    from collections.abc import Mapping

    return {
        "soupkit": soupkit, "Mapping": Mapping, "Tensor": torch.Tensor, "live_model": Brightness(),
        "pictures": Pictures(), "to_tensor": to_tensor,
    }  # fmt: skip
