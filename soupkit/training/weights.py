"""The weights that a run leaves behind: directories that open_clip opens."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from soupkit.checkpoint.dtypes import BY_TORCH_NAME
from soupkit.checkpoint.formats.weight_files import OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS
from soupkit.checkpoint.writer import TensorWriter, lay_out
from soupkit.files import storage_error


def write_model(
    directory: Path, state: dict[str, Tensor], config: dict[str, Any], tokenizer_files: Sequence[Path] = ()
) -> None:
    """Write an open_clip directory, tensor by tensor, its header last. Raises StorageError."""
    specs = {n: (BY_TORCH_NAME[str(t.dtype).removeprefix("torch.")].name, tuple(t.shape)) for n, t in state.items()}
    writer = TensorWriter(directory, lay_out(specs, {"format": "pt"}, None))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / OPEN_CLIP_WEIGHTS).unlink(missing_ok=True)  # whose header would be whole before its tensors are
        writer.open(create=True)
        for name, tensor in state.items():
            data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            writer.write(name, 0, data.numpy())
        writer.finish()
        (directory / OPEN_CLIP_CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        for file in tokenizer_files:
            (directory / file.name).write_bytes(file.read_bytes())
    except OSError as error:
        raise storage_error(error, directory, 0) from error
    finally:
        writer.close()
