"""From a reference, the string that names weights everywhere in soupkit, to an open checkpoint.

FILE.safetensors, FILE.pt | .pth | .bin, or a directory: open_clip's, sharded, or transformers-format CLIP
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from soupkit.checkpoint.checkpoint import Checkpoint, SourceFile
from soupkit.checkpoint.header import read_header
from soupkit.checkpoint.names import strip_prefixes
from soupkit.checkpoint.pickles import read_pickle
from soupkit.checkpoint.shards import read_shards
from soupkit.checkpoint.tensors import TensorSpec
from soupkit.checkpoint.transformers_clip import convert_config, convert_tensors, is_transformers_clip
from soupkit.errors import CheckpointError, UsageError

CONFIG_NAME = "open_clip_config.json"
_INDEX = ".index.json"
_PICKLES = (".pt", ".pth", ".bin")
# In the order in which a directory is searched: open_clip's own names, then transformers', safetensors before pickles.
_WEIGHT_NAMES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
TOKENIZER_PATTERNS = (
    "tokenizer*.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)


def open_checkpoint(ref: str | Path) -> Checkpoint:
    """Open the weights that `ref` names; headers are read, weights are not.

    Raises UsageError for a reference of a kind that is not there yet; CheckpointError when there is nothing at `ref`,
    when it is unclear which of several files is meant, and for files that are damaged or no checkpoint.
    """
    if str(ref).startswith("hf-hub:"):
        raise UsageError(
            "references to the Hugging Face Hub are not supported yet", ref, "download it and name the directory"
        )
    path = Path(ref)
    weights = _find_weights(path)
    tensors, metadata = _read(weights)
    tensors, notes = strip_prefixes(tensors, weights)
    config_path: Path | None = weights.parent / CONFIG_NAME
    config = _read_json(weights.parent / CONFIG_NAME)
    kind = "open_clip" if config is not None else "sharded" if weights.name.endswith(_INDEX) else weights.suffix[1:]
    if is_transformers_clip(tensors):
        tensors = convert_tensors(tensors, weights)
        kind = "transformers"
        notes.append("names converted from transformers' CLIPModel to open_clip's")
        if config is None and (found := _read_json(weights.parent / "config.json")) is not None:
            config_path = weights.parent / "config.json"
            config = convert_config(found, _read_json(weights.parent / "preprocessor_config.json"), config_path)
    if config is not None:
        _check_config(config, config_path)
    return Checkpoint(
        ref=str(ref),
        path=path,
        kind=kind,
        tensors=tensors,
        files=_open_files(tensors),
        metadata=metadata,
        config=config,
        config_path=config_path if config is not None else None,
        tokenizer_files=_tokenizer_files(weights.parent, config),
        notes=tuple(notes),
    )


def _find_weights(path: Path) -> Path:
    """Return the file that holds the weights, or the index of their shards."""
    if path.is_file():
        if path.suffix == ".safetensors" or path.suffix in _PICKLES or path.name.endswith(_INDEX):
            return path
        raise CheckpointError(
            "is not a file of weights by its name", path, "soupkit reads .safetensors, .pt, .pth, .bin and .index.json"
        )
    if not path.is_dir():
        raise CheckpointError("there is nothing here", path, "check the path")
    for name in _WEIGHT_NAMES:
        if (path / name).is_file():
            return path / name
    for suffix in (".safetensors" + _INDEX, ".safetensors", *_PICKLES):
        found = sorted(path.glob("*" + suffix))
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(f.name for f in found[:8])
            raise CheckpointError(f"holds {len(found)} checkpoints: {names}", path, "name one of the files")
    raise CheckpointError("holds no weights", path, f"looked for {', '.join(_WEIGHT_NAMES)}, *.safetensors, *.pt")


def _read(weights: Path) -> tuple[dict[str, TensorSpec], dict[str, str]]:
    def read(path: Path) -> tuple[dict[str, TensorSpec], dict[str, str]]:
        return read_header(path) if path.suffix == ".safetensors" else read_pickle(path)

    tensors, metadata = read_shards(weights, read) if weights.name.endswith(_INDEX) else read(weights)
    if not tensors:
        raise CheckpointError("holds no tensors", weights)
    return tensors, metadata


def _open_files(tensors: dict[str, TensorSpec]) -> dict[Path, SourceFile]:
    files: dict[Path, SourceFile] = {}
    try:
        for path in dict.fromkeys(extent.file for spec in tensors.values() for extent in spec.extents):
            files[path] = SourceFile.open(path)
        for name, spec in tensors.items():
            for extent in spec.extents:
                if extent.offset + extent.nbytes > files[extent.file].size:
                    raise CheckpointError("was cut short while it was opened", f"{extent.file}, tensor {name!r}")
    except CheckpointError:
        Checkpoint("", Path(), "", {}, files).close()
        raise
    return files


def _read_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in `path`, None where there is no such file. Raises CheckpointError for anything else."""
    if not path.is_file():
        return None
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"is not valid JSON: {str(error)[:200]}", path, "correct it or get it again") from error
    if not isinstance(document, dict):
        raise CheckpointError("is not a JSON object", path, "correct it or get it again")
    return document


def _check_config(config: dict[str, Any], path: Path | None) -> None:
    model_cfg = config.get("model_cfg")
    sections = (
        [model_cfg, *(model_cfg.get(k) for k in ("vision_cfg", "text_cfg"))] if isinstance(model_cfg, dict) else []
    )
    preprocess = config.get("preprocess_cfg", {})
    if not sections or not all(isinstance(s, dict) for s in (*sections, preprocess)):
        raise CheckpointError("has no model_cfg with vision_cfg and text_cfg", path or "", "open_clip writes it so")


def _tokenizer_files(directory: Path, config: dict[str, Any] | None) -> tuple[Path, ...]:
    """Return the files that the model's tokenizer is made of; open_clip's own tokenizer needs none."""
    if config is None or not config["model_cfg"]["text_cfg"].get("hf_tokenizer_name"):
        return ()
    return _unique([f for pattern in TOKENIZER_PATTERNS for f in sorted(directory.glob(pattern))])


def _unique(paths: Sequence[Path]) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(paths))
