"""Synthetic checkpoints of Llama-like language models, in shards, as transformers saves them: one tensor at a time."""

import json
from math import prod
from pathlib import Path

import torch

from soupkit.checkpoint.formats.weight_files import MODEL_WEIGHTS, OutputFiles
from soupkit.checkpoint.writer import OutputLayout, TensorWriter, lay_out

_SHARD_BYTES = 2 * 10**9
_RUN = 1_000_003  # no multiple of a row
# Sizes of Llama 3.2's two, whose embeddings are tied, and one to try things on.
SIZES = {
    "3B": {"hidden_size": 3072, "num_hidden_layers": 28, "intermediate_size": 8192, "num_attention_heads": 24},
    "1B": {"hidden_size": 2048, "num_hidden_layers": 16, "intermediate_size": 8192, "num_attention_heads": 32},
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96, "num_attention_heads": 8},
}


def config_of(size: str) -> dict[str, object]:
    """Return the `config.json` of a size."""
    sizes = SIZES[size]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **sizes,
        "num_key_value_heads": 8,
        "head_dim": sizes["hidden_size"] // sizes["num_attention_heads"],
        "vocab_size": 128256 if size != "tiny" else 256,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    }


def make_language_models(size: str, count: int, directory: Path) -> list[Path]:
    """Return `count` directories of a size's model in bfloat16, in shards of 2 GB; those that are there are kept."""
    from transformers import AutoConfig, AutoModelForCausalLM

    paths = [directory / f"llama-{size}-{i}" for i in range(count)]
    if all((p / "done").is_file() for p in paths):
        return paths
    paths[0].mkdir(parents=True, exist_ok=True)
    (paths[0] / "config.json").write_text(json.dumps(config_of(size), indent=2))
    with torch.device("meta"):
        state = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(paths[0])).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items() if name != "lm_head.weight"}
    layout = lay_out(
        {n: ("BF16", shape) for n, shape in shapes.items()}, {"format": "pt"},
        _SHARD_BYTES if size != "tiny" else 10**5, OutputFiles(MODEL_WEIGHTS),
    )  # fmt: skip
    for i, path in enumerate(paths):
        if not (path / "done").is_file():
            path.mkdir(parents=True, exist_ok=True)
            (path / "config.json").write_text(json.dumps(config_of(size), indent=2))
            _write(path, i, shapes, layout)
            (path / "done").touch()
    return paths


def _write(path: Path, index: int, shapes: dict[str, tuple[int, ...]], layout: OutputLayout) -> None:
    writer = TensorWriter(path, layout)
    writer.open(create=True)
    for k, (name, shape) in enumerate(shapes.items()):
        values = _normal(shape, k).mul_(0.02).add_(_normal(shape, 1000 * (index + 1) + k), alpha=0.002)
        values += name.endswith("norm.weight")
        writer.write(name, 0, values.bfloat16().reshape(-1).view(torch.uint8).numpy())
    writer.finish()
    writer.close()


def _normal(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Return normal numbers, the same again after each run: making all of them anew takes minutes for each model."""
    count = prod(shape)
    run = torch.randn(min(count, _RUN), generator=torch.Generator().manual_seed(seed))
    return run.repeat(-(-count // len(run)))[:count].view(shape)
