"""A sample of every row of the table of formats: `SAMPLES[name](directory, state)` writes it and returns its path."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file

from tests.conftest import CONFIG, TINY_MODEL, save

State = dict[str, torch.Tensor]
# A text tower that nobody but its owner has: which tensors it has is in no config.
STRANGERS = {**CONFIG, "model_cfg": {**TINY_MODEL, "text_cfg": {"hf_model_name": "strangers/own"}}}


def safetensors(directory: Path, state: State) -> Path:
    save_file(state, directory / "x.safetensors")
    return directory / "x.safetensors"


def pickle(directory: Path, state: State) -> Path:
    torch.save(state, directory / "x.pt")
    return directory / "x.pt"


def shards(directory: Path, state: State, suffix: str = "safetensors") -> Path:
    """Write two shards and their index, and return the index."""
    directory.mkdir(parents=True, exist_ok=True)
    parts = {f"model-{i + 1}-of-2.{suffix}": list(state)[i::2] for i in range(2)}
    for file, names in parts.items():
        part = {name: state[name] for name in names}
        save_file(part, directory / file) if suffix == "safetensors" else torch.save(part, directory / file)
    stem = "model.safetensors" if suffix == "safetensors" else "pytorch_model.bin"
    index = {"metadata": {}, "weight_map": {name: file for file, names in parts.items() for name in names}}
    (directory / f"{stem}.index.json").write_text(json.dumps(index))
    return directory / f"{stem}.index.json"


def pickle_shards(directory: Path, state: State) -> Path:
    return shards(directory, state, "bin")


def open_clip(directory: Path, state: State) -> Path:
    return save(directory / "open_clip", state, STRANGERS)


def run(directory: Path, state: State) -> Path:
    path = save(directory / "run", state, CONFIG)
    save(path / "ema", state, CONFIG)
    (path / "training.json").write_text("{}")
    return path


def deepspeed(directory: Path, state: State) -> Path:
    path = directory / "global_step10"
    path.mkdir()
    torch.save({"module": state}, path / "mp_rank_00_model_states.pt")
    torch.save({"optimizer_state_dict": {}}, path / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    return path


def peft(directory: Path, state: State) -> Path:
    path = directory / "adapter"
    path.mkdir()
    module = "base_model.model.visual.transformer.resblocks.0.mlp.c_fc"
    rows, columns = state["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape
    factors = {
        f"{module}.lora_A.weight": torch.zeros(2, columns),
        f"{module}.lora_B.weight": torch.zeros(rows, 2),
    }
    save_file(factors, path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "base_model_name_or_path": str(open_clip(directory / "base", state)), "r": 2}
    (path / "adapter_config.json").write_text(json.dumps(config))
    return path


def fsdp_local(directory: Path, state: State) -> Path:
    path = directory / "fsdp"
    path.mkdir()
    for rank in range(2):
        torch.save({"_flat_param": torch.zeros(3)}, path / f"pytorch_model_fsdp_0_rank{rank}.bin")
    return path


def configured(path: Path, state: State, config: dict[str, Any], weights: str = "model.safetensors") -> Path:
    """Write weights and `config.json`."""
    path.mkdir(parents=True)
    save_file(state, path / weights, {"format": "pt"})
    (path / "config.json").write_text(json.dumps(config))
    return path


def transformers(directory: Path, state: State) -> Path:
    return configured(directory / "transformers", state, {"model_type": "strangers", "architectures": ["Own"]})


def timm(directory: Path, state: State) -> Path:
    return configured(directory / "timm", state, {"architecture": "vit_tiny", "pretrained_cfg": {"mean": [0.5]}})


def diffusers(directory: Path, state: State) -> Path:
    config = {"_class_name": "UNet2DModel", "sample_size": 8}
    return configured(directory / "unet", state, config, "diffusion_pytorch_model.safetensors")


def diffusers_pipeline(directory: Path, state: State) -> Path:
    diffusers(directory / "pipeline", state)
    index = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"], "safety": [None, None]}
    (directory / "pipeline" / "model_index.json").write_text(json.dumps(index))
    return directory / "pipeline"


def plain(directory: Path, state: State) -> Path:
    return save(directory / "plain", state)


def distributed(directory: Path, state: State) -> Path:
    path = directory / "distributed"
    document = {"model": state, "optimizer": {"state": {"exp_avg": torch.zeros(3)}}, "epoch": 1}
    dcp.save(document, checkpoint_id=path)
    return path / ".metadata"


SAMPLES: dict[str, Callable[[Path, State], Path]] = {
    "safetensors": safetensors,
    "safetensors_shards": shards,
    "pickle": pickle,
    "pickle_shards": pickle_shards,
    "distributed": distributed,
    "open_clip": open_clip,
    "run": run,
    "deepspeed": deepspeed,
    "fsdp_local": fsdp_local,
    "peft": peft,
    "transformers": transformers,
    "timm": timm,
    "diffusers": diffusers,
    "diffusers_pipeline": diffusers_pipeline,
    "plain": plain,
}
