"""Checkpoints in several files: the index that says which tensor lies in which shard, and the shards themselves."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from soupkit.checkpoint.formats.safetensors_header import refuse_duplicates
from soupkit.checkpoint.tensors import TensorSpec
from soupkit.errors import CheckpointError

ShardReader = Callable[[Path], tuple[dict[str, TensorSpec], dict[str, str]]]


def read_shards(index: Path, read: ShardReader) -> tuple[dict[str, TensorSpec], dict[str, str]]:
    """Return the tensors of all shards that `index` names, and the metadata of the first.

    Raises CheckpointError for an index that is not one, a shard whose name leaves the directory, and where the index
    and the shards disagree.
    """
    mapped = weight_map(index)
    tensors: dict[str, TensorSpec] = {}
    metadata: dict[str, str] = {}
    for i, shard in enumerate(sorted(set(mapped.values()))):
        held, shard_metadata = read(index.parent / shard)
        if i == 0:
            metadata = shard_metadata
        promised = {name for name, file in mapped.items() if file == shard}
        if missing := sorted(promised - set(held)):
            raise CheckpointError(f"lacks {missing[0]!r}, which the index promises", index.parent / shard, _AGAIN)
        if extra := sorted(set(held) - promised):
            raise CheckpointError(f"holds {extra[0]!r}, which the index does not name", index.parent / shard, _AGAIN)
        tensors.update(held)
    return tensors, metadata


_AGAIN = "the index and the shards are of different versions, or one was cut short; get them again"


def weight_map(index: Path) -> dict[str, str]:
    """Return which shard holds each tensor. Raises CheckpointError for an index that is not one."""
    try:
        text = index.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"cannot be read: {error}", index) from error
    try:
        document: Any = json.loads(text, object_pairs_hook=refuse_duplicates(index))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"is not valid JSON: {str(error)[:200]}", index) from error
    mapped = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(mapped, dict) or not mapped:
        raise CheckpointError("has no weight_map", index, "it should map each tensor to the shard that holds it")
    for name, shard in mapped.items():
        if (
            not isinstance(shard, str)
            or not shard
            or Path(shard).name != shard
            or shard in (".", "..")
            or "\0" in shard
        ):
            raise CheckpointError(
                f"names a shard outside its directory: {str(shard)[:100]!r}",
                f"{index}, tensor {name!r}",
                "shards lie beside their index; this file may be an attack",
            )
    return mapped
