"""Names of tensors, brought to the ones that open_clip gives them: without what wrappers put around them."""

from collections.abc import Collection, Mapping

from soupkit.checkpoint.formats.table import Tensors
from soupkit.checkpoint.tensors import TensorSpec
from soupkit.errors import CheckpointError

# What torch's data parallelism and torch.compile put before every name.
_PREFIXES = ("module.", "_orig_mod.")
# What torch.compile, activation checkpointing and FSDP put before the names of a part of a model.
_WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
# Buffers of OpenAI's archives that say sizes and are no weights; open_clip leaves them out too.
_SIZES = ("input_resolution", "context_length", "vocab_size")
# A CLIP has this one, whichever library named it, and outside of its towers.
_OF_CLIP = "logit_scale"


def strip_prefixes(tensors: Mapping[str, TensorSpec], where: object) -> tuple[Tensors, list[str]]:
    """Return `tensors` without the prefixes that wrappers leave, and a note for each that was stripped.

    A prefix that all names share is stripped too where what remains is a CLIP. Raises CheckpointError when two tensors
    end up with one name.
    """
    counts: dict[str, int] = {}
    names = {name: _without_wrappers(name, counts) for name in tensors}
    while (shared := _shared_prefix(names.values())) is not None:
        names = {name: plain.removeprefix(shared) for name, plain in names.items()}
        counts[shared] = len(names)
    stripped: Tensors = {}
    for name, plain in names.items():
        if plain in stripped:
            raise CheckpointError(
                f"holds {plain!r} twice, with and without a prefix", where, "keep one of the two in the file"
            )
        stripped[plain] = tensors[name]
    sizes = [name for name in _SIZES if name in stripped and _OF_CLIP in stripped and not stripped[name].is_float]
    for name in sizes:
        del stripped[name]
    notes = [f"prefix {prefix!r} stripped from {count} names" for prefix, count in counts.items()]
    if sizes:
        notes.append(f"left out, since they are sizes and no weights: {', '.join(sizes)}")
    return stripped, notes


def _without_wrappers(name: str, counts: dict[str, int]) -> str:
    while prefix := next((p for p in _PREFIXES if name.startswith(p)), None):
        name = name.removeprefix(prefix)
        counts[prefix] = counts.get(prefix, 0) + 1
    parts = name.split(".")
    for wrapper in _WRAPPERS:
        if wrapper in parts:
            counts[f"{wrapper}."] = counts.get(f"{wrapper}.", 0) + 1
    return ".".join(part for part in parts if part not in _WRAPPERS)


def _shared_prefix(names: Collection[str]) -> str | None:
    """Return the first word that all names share, with its dot, where a CLIP lies under it."""
    prefix = next(iter(names), "").partition(".")[0] + "."
    holds_clip = any(name.endswith(f".{_OF_CLIP}") for name in names)
    return prefix if holds_clip and all(name.startswith(prefix) for name in names) else None
