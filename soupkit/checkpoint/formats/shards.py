"""Checkpoints in several files: the index that says which tensor lies in which shard, and the shards themselves."""

import json
from pathlib import Path
from typing import Any

from soupkit.checkpoint.formats.safetensors_header import refuse_duplicates
from soupkit.checkpoint.formats.table import FileFormat, ReadRange, Tensors, format_of
from soupkit.checkpoint.formats.weight_files import INDEX, SAFETENSORS
from soupkit.errors import CheckpointError
from soupkit.files import read_text, what_to_do

_AGAIN = "the index and the shards are of different versions, or one was cut short; get them again"


def read_shards(index: Path) -> tuple[Tensors, dict[str, str]]:
    """Return the tensors of all shards that `index` names, and the metadata of the first.

    Raises CheckpointError for an index that is not one, a shard whose name leaves the directory, and where the index
    and the shards disagree.
    """
    mapped = weight_map(index)
    tensors: Tensors = {}
    metadata: dict[str, str] = {}
    for i, shard in enumerate(shard_names(index)):
        path = index.parent / shard
        if shard.endswith(INDEX):
            raise CheckpointError(f"names another index as a shard: {shard}", index, "an index names files of weights")
        held, shard_metadata = format_of(path).read(path)
        if i == 0:
            metadata = shard_metadata
        promised = {name for name, file in mapped.items() if file == shard}
        if missing := sorted(promised - set(held)):
            raise CheckpointError(f"lacks {missing[0]!r}, which the index promises", path, _AGAIN)
        if extra := sorted(set(held) - promised):
            raise CheckpointError(f"holds {extra[0]!r}, which the index does not name", path, _AGAIN)
        tensors.update(held)
    return tensors, metadata


def shard_names(index: Path) -> tuple[str, ...]:
    """Return the names of the shards, sorted. Raises CheckpointError for an index that is not one."""
    return tuple(sorted(set(weight_map(index).values())))


def weight_map(index: Path) -> dict[str, str]:
    """Return which shard holds each tensor. Raises CheckpointError for an index that is not one."""
    try:
        text = read_text(index)
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", index, what_to_do(error)) from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"is not valid JSON: {error}", index, "get it again") from error
    try:
        document: Any = json.loads(text, object_pairs_hook=refuse_duplicates(index))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"is not valid JSON: {str(error)[:200]}", index, "get it again") from error
    mapped = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(mapped, dict) or not mapped:
        raise CheckpointError("has no weight_map", index, "it should map each tensor to the shard that holds it")
    for name, shard in mapped.items():
        if not _is_file_name(shard):
            raise CheckpointError(
                f"names a shard outside its directory: {str(shard)[:100]!r}",
                f"{index}, tensor {name!r}",
                "shards lie beside their index; this file may be an attack",
            )
    return mapped


def _is_file_name(shard: Any) -> bool:
    return isinstance(shard, str) and shard not in ("", ".", "..") and Path(shard).name == shard and "\0" not in shard


def _whole_index(read_range: ReadRange, size: int) -> bytes:
    return read_range(0, size)


SAFETENSORS_SHARDS = FileFormat(
    name="safetensors_shards",
    summary="an index and the .safetensors files that it names",
    suffixes=(SAFETENSORS + INDEX,),
    read=read_shards,
    header=_whole_index,
    parts=shard_names,
)
PICKLE_SHARDS = FileFormat(
    name="pickle_shards",
    summary="an index and the pickled files that it names",
    suffixes=(INDEX,),
    read=read_shards,
    parts=shard_names,
)
