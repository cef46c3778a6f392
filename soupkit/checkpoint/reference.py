"""From a reference, the string that names weights everywhere in soupkit, to an open checkpoint."""

import json
from pathlib import Path
from typing import Any

from soupkit.checkpoint.checkpoint import Checkpoint, SourceFile
from soupkit.checkpoint.header import read_header
from soupkit.errors import CheckpointError

WEIGHTS_NAME = "open_clip_model.safetensors"
CONFIG_NAME = "open_clip_config.json"
_TOKENIZER_PATTERNS = (
    "tokenizer*.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "special_tokens_map.json",
    "*.model",
)


def open_checkpoint(ref: str | Path) -> Checkpoint:
    """Open the weights that `ref` names (see the README's "References"); headers are read, weights are not.

    Raises CheckpointError when there is nothing at `ref`, or it is not a checkpoint that soupkit reads.
    """
    path = Path(ref)
    if path.is_dir():
        weights, config_path = path / WEIGHTS_NAME, path / CONFIG_NAME
    else:
        weights, config_path = path, path.parent / CONFIG_NAME
    if not weights.is_file():
        raise CheckpointError("there is no checkpoint here", ref, "name a .safetensors file or an open_clip directory")
    tensors, metadata = read_header(weights)
    tokenizer = sorted({f for pattern in _TOKENIZER_PATTERNS for f in weights.parent.glob(pattern)})
    return Checkpoint(
        ref=str(ref),
        path=path,
        kind="open_clip" if config_path.is_file() else "safetensors",
        tensors=tensors,
        files={weights: SourceFile.open(weights)},
        metadata=metadata,
        config=_read_config(config_path),
        config_path=config_path if config_path.is_file() else None,
        tokenizer_files=tuple(tokenizer) if path.is_dir() else (),
    )


def _read_config(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise CheckpointError(f"is not valid JSON: {error}", path) from error
    if not isinstance(config, dict) or not isinstance(config.get("model_cfg"), dict):
        raise CheckpointError("has no model_cfg", path, "it should be an open_clip_config.json as open_clip writes it")
    return config
