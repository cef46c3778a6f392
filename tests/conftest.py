"""What the tests share: small real checkpoints on disk, and the command line as a real process."""

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.hub.user import as_user as as_user
from tests.hub.user import home as home
from tests.hub.user import hub as hub
from tests.hub.user import start_as_user as start_as_user
from tests.processes import environment as environment
from tests.processes import soupkit as soupkit

SHAPES = {
    "visual.conv1.weight": (24, 3, 4, 4),
    "visual.ln_pre.bias": (7,),
    "visual.transformer.resblocks.0.mlp.c_fc.weight": (301, 203),
    "visual.transformer.resblocks.1.mlp.c_fc.weight": (90, 31),
    "token_embedding.weight": (1031, 97),
    "transformer.resblocks.0.attn.in_proj_bias": (64,),
    "text_projection": (33, 12),
    "logit_scale": (),
}
TINY_MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
PREPROCESS = {
    "size": 16,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
CONFIG = {"model_cfg": TINY_MODEL, "preprocess_cfg": PREPROCESS}


def pytest_configure() -> None:
    # A shell that starts the suite in the background has it ignore Ctrl-C, and every process under test with it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def random_state(seed: int, dtype: torch.dtype = torch.float32, spread: float = 0.01) -> dict[str, torch.Tensor]:
    """Tensors near a base that all seeds share, as fine-tunes of one model are."""
    base, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed + 1)
    return {
        name: (torch.randn(shape, generator=base) + spread * torch.randn(shape, generator=own)).to(dtype)
        for name, shape in SHAPES.items()
    }


def save(path: Path, state: dict[str, torch.Tensor], config: dict[str, Any] | None = None) -> Path:
    """Write an open_clip directory (without a config unless one is given)."""
    path.mkdir(parents=True)
    save_file(state, path / "open_clip_model.safetensors", {"format": "pt"})
    if config is not None:
        (path / "open_clip_config.json").write_text(json.dumps(config))
    return path


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """Three bfloat16 checkpoints of one lineage."""
    return [save(tmp_path / f"in{i}", random_state(i, torch.bfloat16)) for i in range(3)]


@pytest.fixture(scope="session")
def tiny_clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three real open_clip models of one lineage, as open_clip directories."""
    from open_clip.model import CLIP

    root = tmp_path_factory.mktemp("clips")
    torch.manual_seed(0)
    model = CLIP(TINY_MODEL["embed_dim"], dict(TINY_MODEL["vision_cfg"]), dict(TINY_MODEL["text_cfg"]))
    base = {k: v.clone() for k, v in model.state_dict().items()}
    return [
        save(root / name, {k: v + 0.01 * i * torch.randn_like(v) for k, v in base.items()}, CONFIG)
        for i, name in enumerate(("base", "a", "b"))
    ]


@pytest.fixture(scope="session")
def short_runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Runs of the demo's recipe on the shipped digits, so short that they are far from perfect: trained when they are
    first asked for, and once for all tests."""
    from soupkit.cli.demo import RECIPE
    from soupkit.cli.train import train_runs
    from soupkit.progress import SILENT
    from soupkit.training import TrainOptions

    root = tmp_path_factory.mktemp("runs")
    short = [f"{run}.samples={n}" for run, n in (("stage1", 4800), ("a", 800), ("b", 1200))]
    short += [f"{run}.warmup={n}" for run, n in (("stage1", 800), ("a", 80), ("b", 80))]

    def run(name: str) -> Path:
        if not (root / name).exists():
            train_runs(RECIPE, root, name, short, TrainOptions(device="cpu", workers=0, threads=1), SILENT)
        return root / name

    return run


@pytest.fixture
def cli() -> Callable[..., subprocess.CompletedProcess[str]]:
    return soupkit


def bytes_of(path: Path) -> dict[str, bytes]:
    """Every file below `path`, by name."""
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.double().numpy()
