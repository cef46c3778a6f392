"""Names of tensors, brought to the ones that open_clip gives them."""

from collections.abc import Mapping

from soupkit.checkpoint.tensors import TensorSpec
from soupkit.errors import CheckpointError

# What torch's data parallelism and torch.compile put before every name.
_PREFIXES = ("module.", "_orig_mod.")


def strip_prefixes(tensors: Mapping[str, TensorSpec], where: object) -> tuple[dict[str, TensorSpec], list[str]]:
    """Return `tensors` without the prefixes that wrappers leave, and a note for each prefix that was there.

    Raises CheckpointError when two tensors end up with one name.
    """
    stripped: dict[str, TensorSpec] = {}
    counts = dict.fromkeys(_PREFIXES, 0)
    for name, spec in tensors.items():
        plain = name
        while prefix := next((p for p in _PREFIXES if plain.startswith(p)), None):
            plain = plain.removeprefix(prefix)
            counts[prefix] += 1
        if plain in stripped:
            raise CheckpointError(
                f"holds {plain!r} twice, with and without a prefix", where, "keep one of the two in the file"
            )
        stripped[plain] = spec
    return stripped, [f"prefix {p!r} stripped from {n} names" for p, n in counts.items() if n]
