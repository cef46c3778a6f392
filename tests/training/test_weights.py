"""The weights that a run ends with, as safetensors reads them back."""

import tracemalloc
from pathlib import Path

import torch
from safetensors.torch import load_file

from soupkit.training.weights import write_model


def test_weights_are_written_as_they_are_and_without_a_copy_of_the_whole(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    state = {f"large.{i}": torch.randn(1024, 1024, generator=generator) for i in range(8)}
    state["turned"] = state["large.0"][:5, :3].T
    state["half"] = torch.randn(7, generator=generator).bfloat16()
    state["logit_scale"] = torch.tensor(2.5)
    state["num_batches_tracked"] = torch.tensor(3)
    state["empty"] = torch.empty(0, 4)
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"x" * 50_000_000)  # of a run that was killed, say
    tracemalloc.start()
    write_model(tmp_path, state, {"model_cfg": {}})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20, "all tensors together are 32 MB"
    found = load_file(tmp_path / "open_clip_model.safetensors")
    assert {n: t.dtype for n, t in found.items()} == {n: t.dtype for n, t in state.items()}
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
