"""What the tests of search share: fine-tunes of one model on the shipped digits, and a cache for their pixels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from soupkit.evaluation import EvaluationOptions
from soupkit.progress import Silent
from soupkit.search import STRATEGIES, SearchResult
from soupkit.search import search as run_search


@pytest.fixture(scope="session")
def fine_tunes(short_runs: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Six ingredients around one short fine-tune: some help each other, some are worse, none is very good."""
    root = tmp_path_factory.mktemp("fine-tunes")
    base, tuned = short_runs("stage1"), [short_runs("a"), short_runs("b")]
    generator = torch.Generator().manual_seed(0)
    found = list(tuned)
    for i, noise in enumerate((0.02, 0.03, 0.05, 3.0)):
        state = load_file(tuned[i % 2] / "open_clip_model.safetensors")
        place = root / f"noisy{i}"
        place.mkdir()
        state = {
            k: (v + noise * v.std() * torch.randn(v.shape, generator=generator)).contiguous() if v.ndim >= 2 else v
            for k, v in state.items()
        }
        save_file(state, place / "open_clip_model.safetensors", {"format": "pt"})
        (place / "open_clip_config.json").write_bytes((base / "open_clip_config.json").read_bytes())
        found.append(place)
    return found


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


SIZES = {"layer.weight": (4, 6), "layer.bias": (4,)}


@pytest.fixture
def points(tmp_path: Path) -> list[Path]:
    """Four small models that are no CLIPs, each a directory: fine-tunes around the weights of a linear layer."""
    generator = torch.Generator().manual_seed(0)
    centre = {name: torch.randn(size, generator=generator) for name, size in SIZES.items()}
    paths = []
    for i, distance in enumerate((0.3, 0.4, 0.5, 3.0)):
        path = tmp_path / f"point{i}"
        path.mkdir()
        state = {n: c + distance * torch.randn(c.shape, generator=generator) for n, c in centre.items()}
        save_file(state, path / "model.safetensors", {"format": "pt"})
        (path / "notes.txt").write_text("mine")
        paths.append(path)
    save_file(centre, tmp_path / "centre.safetensors")
    return paths


class Told(Silent):
    """Remembers what a person would be told."""

    def __init__(self) -> None:
        self.labels: list[str] = []
        self.notes: list[str] = []

    def start(self, label: str, total: int, unit: str) -> None:
        self.labels.append(label)

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def search(fine_tunes: list[Path], cache: Path, tmp_path: Path) -> Any:
    """Run a search over the fine-tunes on 150 of the digits' validation images."""

    def run(name: str = "soup", refs: list[Path] | None = None, **options: Any) -> SearchResult:
        evaluation = EvaluationOptions(cache=cache, limit=150, batch_size=16, device="cpu")
        given = {"tasks": ["digits"], "evaluation": evaluation, **options}
        return run_search(refs or fine_tunes, tmp_path / name, **given)

    return run


def small(strategy: str) -> dict[str, Any]:
    """Options with which a strategy tries little: as few mixtures as make a grid and a generation of CMA-ES, one
    epoch."""
    little = {"budget": 4, "epochs": 1}
    return {o.name: little[o.name] for o in STRATEGIES[strategy].options if o.name in little}
