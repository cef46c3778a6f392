"""Ingredients that are the same weights count as one: those of one reference, of the same bytes of the same files, and
copies. What is said of each of them, its weight, is added."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.fingerprint import fingerprint
from soupkit.checkpoint.tensors import TensorSpec
from soupkit.errors import UsageError
from soupkit.merging.entry import SoupEntry

# Of 75 ingredients a few tensors are glimpsed, of those that look alike the beginnings of all, and of those that begin
# alike every byte: on a disk across a network each of the 450 tensors of a ViT-L would be a read of milliseconds.
_GLIMPSED, _SAMPLE = 8, 4096  # tensors; bytes of each


def with_distinct_references(soup: SoupEntry) -> tuple[SoupEntry, list[str]]:
    """Return `soup` with each reference once, and what is to be said about it. Nothing is opened."""
    return _joined(soup, [soup.ingredients.index(ref) for ref in soup.ingredients])


class Distinct(NamedTuple):
    """A soup with each of its ingredients once: the positions of those that stay, the references of their copies, and
    what is to be said."""

    soup: SoupEntry
    kept: list[int]
    copies: list[tuple[str, ...]]
    notes: list[str]


def with_distinct_weights(soup: SoupEntry, opened: Sequence[Checkpoint]) -> Distinct:
    """Return `soup` with each of its ingredients, which are `opened`, once. Only those that begin alike are read whole.

    Raises UsageError where a method's parameters say different things of the same weights.
    """
    firsts: list[int] = []
    glimpses = [_glimpse(checkpoint) for checkpoint in opened]
    for i, checkpoint in enumerate(opened):
        near = (j for j in dict.fromkeys(firsts) if glimpses[j] == glimpses[i])
        firsts.append(next((j for j in near if _are_the_same(opened[j], checkpoint)), i))
    joined, said = _joined(soup, firsts)
    kept = list(dict.fromkeys(firsts))
    copies = [tuple(soup.ingredients[j] for j, of in enumerate(firsts) if of == i != j) for i in kept]
    return Distinct(joined, kept, copies, said)


def _joined(soup: SoupEntry, firsts: Sequence[int]) -> tuple[SoupEntry, list[str]]:
    """Join the ingredients, of which each is the same as the one at its place in `firsts`."""
    kept = list(dict.fromkeys(firsts))
    if len(kept) == len(firsts):
        return soup, []
    changes: dict[str, Any] = {"ingredients": [soup.ingredients[i] for i in kept]}
    if soup.weights is not None and len(soup.weights) == len(firsts):
        changes["weights"] = _of_each("weight", soup.weights, firsts)
    changes["parameters"] = {name: _of_each(name, value, firsts) for name, value in soup.parameters.items()}
    return soup.model_copy(update=changes), [_said(soup.ingredients, firsts, i) for i in kept if firsts.count(i) > 1]


def _said(refs: Sequence[str], firsts: Sequence[int], first: int) -> str:
    same = [refs[i] for i, of in enumerate(firsts) if of == first]
    others = list(dict.fromkeys(ref for ref in same if ref != refs[first]))
    if not others:
        return f"{refs[first]} is given {len(same)} times and counts once; weights that are given for it are added"
    are = "has" if len(others) == 1 else "have"
    return f"{', '.join(others)} {are} the weights of {refs[first]}: one ingredient; weights that are given are added"


def _of_each(name: str, value: Any, firsts: Sequence[int]) -> Any:
    """Return a parameter's `value`, which may hold a list with one value per ingredient, for those that stay."""
    if isinstance(value, Mapping) and "gradient" not in value:
        return {pattern: _of_each(name, inner, firsts) for pattern, inner in value.items()}
    if not isinstance(value, list | tuple) or len(value) != len(firsts):
        return value
    groups = [[value[i] for i, of in enumerate(firsts) if of == first] for first in dict.fromkeys(firsts)]
    if name == "weight" and all(isinstance(one, int | float) for one in value):
        return [float(sum(group)) if len(group) > 1 else group[0] for group in groups]
    if any(one != group[0] for group in groups for one in group):
        raise UsageError("says different things of the same ingredient", f"--param {name}", "give each ingredient once")
    return [group[0] for group in groups]


def _are_the_same(one: Checkpoint, other: Checkpoint) -> bool:
    if one.tensors.keys() != other.tensors.keys():
        return False
    pairs = [(one.tensors[name], other.tensors[name], name) for name in one.tensors]
    if any((a.dtype, a.shape) != (b.dtype, b.shape) for a, b, _ in pairs):
        return False
    if all(a.strides == b.strides and _places(a) is not None and _places(a) == _places(b) for a, b, _ in pairs):
        return True
    if any(_beginning(one, name) != _beginning(other, name) for _, _, name in pairs):
        return False
    return fingerprint(one).value == fingerprint(other).value


def _places(spec: TensorSpec) -> list[tuple[int, int, int, int]] | None:
    """Return where the bytes of a tensor lie: on which disk, in which file of it, and where in that; None for those
    that lie in no file: in memory, or made of an adapter and its base."""
    try:
        stats = [extent.file.stat() for extent in spec.extents]
    except OSError:
        return None
    return [(s.st_dev, s.st_ino, e.offset, e.nbytes) for s, e in zip(stats, spec.extents, strict=True)]


def _glimpse(checkpoint: Checkpoint) -> list[bytes]:
    names = sorted(checkpoint.tensors)
    return [_beginning(checkpoint, name) for name in names[:: max(1, len(names) // _GLIMPSED)]]


def _beginning(checkpoint: Checkpoint, name: str) -> bytes:
    buffer = np.empty(min(_SAMPLE, checkpoint.tensors[name].nbytes), dtype=np.uint8)
    checkpoint.read_into(name, 0, buffer)
    return buffer.tobytes()
