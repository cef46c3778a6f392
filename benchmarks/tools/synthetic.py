"""Synthetic checkpoints of any open_clip architecture: random weights around a shared base, one tensor at a time."""

import json
from pathlib import Path

import torch

from soupkit.checkpoint.architecture import named_config
from soupkit.checkpoint.dtypes import BY_TORCH_NAME
from soupkit.checkpoint.writer import OutputLayout, TensorWriter, lay_out


def make_checkpoints(model: str, count: int, dtype: str, directory: Path, device: str = "cpu") -> list[Path]:
    """Return `count` open_clip directories of `model` in `dtype` (a torch name); those that are there are kept. Their
    numbers are drawn on `device`, a GPU in seconds."""
    import open_clip

    paths = [directory / f"{model}-{dtype}-{i}" for i in range(count)]
    if all((p / "done").is_file() for p in paths):
        return paths
    with torch.device("meta"):
        built = open_clip.create_model(model, pretrained=None, load_weights=False, device="meta")
    state = built.state_dict()
    kinds = {n: BY_TORCH_NAME[dtype if t.is_floating_point() else str(t.dtype)[6:]] for n, t in state.items()}
    layout = lay_out({n: (kinds[n].name, tuple(t.shape)) for n, t in state.items()}, {"format": "pt"}, None)
    for i, path in enumerate(paths):
        if not (path / "done").is_file():
            _make_one(path, i, state, layout, dtype, device)
            (path / "open_clip_config.json").write_text(json.dumps(named_config(model), indent=2))
            (path / "done").touch()
    return paths


def _make_one(
    path: Path, index: int, state: dict[str, torch.Tensor], layout: OutputLayout, dtype: str, device: str
) -> None:
    def drawn(tensor: torch.Tensor, seed: int) -> torch.Tensor:
        return torch.randn(tensor.shape, generator=torch.Generator(device).manual_seed(seed), device=device)

    path.mkdir(parents=True, exist_ok=True)
    writer = TensorWriter(path, layout)
    writer.open(create=True)
    for k, (name, tensor) in enumerate(state.items()):
        if tensor.is_floating_point():
            values = drawn(tensor, k).mul_(0.02).add_(drawn(tensor, 1000 * (index + 1) + k).mul_(0.002))
            values = values.to(getattr(torch, dtype)).cpu()
        else:
            values = torch.zeros(tensor.shape, dtype=tensor.dtype)
        writer.write(name, 0, values.reshape(-1).view(torch.uint8).numpy())
    writer.finish()
    writer.close()
