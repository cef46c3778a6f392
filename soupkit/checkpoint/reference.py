"""From a reference, the string that names weights everywhere in soupkit, to an open checkpoint.

FILE.safetensors, FILE.pt | .pth | .bin, a directory (open_clip's, sharded, or transformers-format CLIP), or
hf-hub:ORG/NAME[@REVISION], a repository on the Hub that holds what such a directory does; RUN@ema and
RUN@samples=2e9 are other weights of a training run than its final ones
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from soupkit.checkpoint.checkpoint import Checkpoint, SourceFile
from soupkit.checkpoint.formats.pickles import read_pickle
from soupkit.checkpoint.formats.prefixes import strip_prefixes
from soupkit.checkpoint.formats.safetensors_header import read_header
from soupkit.checkpoint.formats.shards import read_shards
from soupkit.checkpoint.formats.transformers_clip import convert_config, convert_tensors, is_transformers_clip
from soupkit.checkpoint.formats.weight_files import CONFIG_NAME, INDEX, PICKLES, TOKENIZER_PATTERNS, choose_weights
from soupkit.checkpoint.hub import HubRef, fetch, header_files, is_hub
from soupkit.checkpoint.tensors import TensorSpec
from soupkit.errors import CheckpointError, UsageError
from soupkit.progress import SILENT, Progress


def open_checkpoint(ref: str | Path, *, progress: Progress = SILENT) -> Checkpoint:
    """Open the weights that `ref` names; headers are read, weights are not.

    Weights on the Hub are brought into its cache first, with `progress`. Raises CheckpointError when there is nothing
    at `ref`, when it is unclear which of several files is meant, and for files that are damaged or no checkpoint;
    UsageError for a reference that is not well formed; HubError for what the Hub refuses.
    """
    path = fetch(HubRef.parse(str(ref)), progress) if is_hub(ref) else _run_part(Path(ref))
    return _open(ref, path)


def open_headers(ref: str | Path) -> Checkpoint:
    """Open `ref` to see what it is: of weights on the Hub only the configs and headers are fetched, and reading a
    tensor raises CheckpointError. Weights on disk open as ever, and so do pickles on the Hub, after a download.

    Raises as `open_checkpoint` does.
    """
    if not is_hub(ref):
        return open_checkpoint(ref)
    hub = HubRef.parse(str(ref))
    with TemporaryDirectory(prefix="soupkit-") as scratch:
        try:
            place = header_files(hub, Path(scratch))
            opened = _open(ref, place)
        except CheckpointError as error:
            raise CheckpointError(error.what, error.where.replace(scratch, str(ref)), error.hint) from None
        if place != Path(scratch):
            return opened
        opened.close()  # the files are holes after their headers: nothing may be read from them
    on_hub = Path(str(ref))
    tensors = {
        name: replace(spec, extents=tuple(replace(e, file=on_hub / e.file.name) for e in spec.extents))
        for name, spec in opened.tensors.items()
    }
    config_path = on_hub / opened.config_path.name if opened.config_path is not None else None
    return replace(opened, path=on_hub, tensors=tensors, config_path=config_path, tokenizer_files=())


def _open(ref: str | Path, path: Path) -> Checkpoint:
    weights = _find_weights(path)
    tensors, metadata = _read(weights)
    tensors, notes = strip_prefixes(tensors, weights)
    config_path: Path | None = weights.parent / CONFIG_NAME
    config = _read_json(weights.parent / CONFIG_NAME)
    kind = "open_clip" if config is not None else "sharded" if weights.name.endswith(INDEX) else weights.suffix[1:]
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


def _run_part(path: Path) -> Path:
    """Return the directory that RUN@ema or RUN@samples=N stands for; any other path as it is."""
    run, at, part = str(path).rpartition("@")
    if not at or path.exists() or not Path(run).is_dir():
        return path
    key, equals, value = part.partition("=")
    if key == "samples" and equals:
        try:
            part = f"samples={int(float(value))}"
        except (ValueError, OverflowError):
            raise UsageError(f"{value!r} is no number of samples", path, "write it as RUN@samples=2e9") from None
    found = Path(run) / part
    if (part != "ema" and key != "samples") or not found.is_dir():
        there = [p.name for p in sorted(Path(run).iterdir()) if p.name == "ema" or p.name.startswith("samples=")]
        hint = f"it has {', '.join(there)}" if there else "its entry asked for no ema and no snapshots"
        raise CheckpointError(f"the run has no {part!r}", run, hint)
    return found


def _find_weights(path: Path) -> Path:
    """Return the file that holds the weights, or the index of their shards."""
    if path.is_file():
        if path.suffix == ".safetensors" or path.suffix in PICKLES or path.name.endswith(INDEX):
            return path
        raise CheckpointError(
            "is not a file of weights by its name", path, "soupkit reads .safetensors, .pt, .pth, .bin and .index.json"
        )
    if not path.is_dir():
        raise CheckpointError("there is nothing here", path, "check the path")
    return path / choose_weights((f.name for f in path.iterdir() if f.is_file()), path)


def _read(weights: Path) -> tuple[dict[str, TensorSpec], dict[str, str]]:
    def read(path: Path) -> tuple[dict[str, TensorSpec], dict[str, str]]:
        return read_header(path) if path.suffix == ".safetensors" else read_pickle(path)

    tensors, metadata = read_shards(weights, read) if weights.name.endswith(INDEX) else read(weights)
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
