"""The smallest CLIP that open_clip builds, as what is attacked holds it."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.conftest import PREPROCESS, TINY_MODEL

_TEXT: Any = TINY_MODEL["text_cfg"]
SMALL_MODEL: dict[str, Any] = {**TINY_MODEL, "text_cfg": {**_TEXT, "vocab_size": 64}}


def open_clip_directory(directory: Path, scale: float = 1.0, config: dict[str, Any] = SMALL_MODEL) -> None:
    from open_clip.model import CLIP

    directory.mkdir()
    torch.manual_seed(0)
    model = CLIP(config["embed_dim"], dict(config["vision_cfg"]), dict(config["text_cfg"]))
    state = {name: tensor.contiguous() * scale for name, tensor in model.state_dict().items()}
    save_file(state, directory / "open_clip_model.safetensors", {"format": "pt"})
    config = {"model_cfg": config, "preprocess_cfg": PREPROCESS}
    (directory / "open_clip_config.json").write_text(json.dumps(config))
