"""Which sample comes when: a function of the seed and the count of samples alone, whatever the number of ranks."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import numpy as np

_ONE = 1 << 32  # weights of a mixture are counted in parts of this, so that the order is exact for any length


def seed_of(*parts: object) -> int:
    """Return a seed of 63 bits that depends on all of `parts`."""
    digest = hashlib.blake2b(":".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@dataclass(frozen=True, slots=True)
class Shuffled:
    """Every sample once per epoch: shards are shuffled, then the samples of `block` shards at a time."""

    sizes: tuple[int, ...]
    seed: int
    block: int = 16

    def __call__(self, k: int) -> int:
        """Return the number of the sample that is drawn at place `k`."""
        epoch, place = divmod(k, sum(self.sizes))
        starts = _group_starts(self.sizes, self.seed, self.block, epoch)
        group = int(np.searchsorted(starts, place, side="right")) - 1
        return int(_members(self.sizes, self.seed, self.block, epoch, group)[place - int(starts[group])])


@lru_cache(maxsize=8)
def _shards(sizes: tuple[int, ...], seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(len(sizes))


@lru_cache(maxsize=8)
def _group_starts(sizes: tuple[int, ...], seed: int, block: int, epoch: int) -> np.ndarray:
    shards = _shards(sizes, seed, epoch)
    lengths = [sum(sizes[s] for s in shards[i : i + block]) for i in range(0, len(shards), block)]
    return np.array([0, *accumulate(lengths)][:-1])


@lru_cache(maxsize=64)
def _members(sizes: tuple[int, ...], seed: int, block: int, epoch: int, group: int) -> np.ndarray:
    first = np.array([0, *accumulate(sizes)])
    shards = _shards(sizes, seed, epoch)[group * block : (group + 1) * block]
    members = np.concatenate([np.arange(first[s], first[s + 1]) for s in shards])
    return np.random.default_rng([seed, epoch, group + 1]).permutation(members)


@dataclass(frozen=True, slots=True)
class Subset:
    """Another order over the samples that `members` lists."""

    members: np.ndarray
    order: Shuffled

    def __call__(self, k: int) -> int:
        """Return the number of the sample that is drawn at place `k`."""
        return int(self.members[self.order(k)])


@dataclass(frozen=True, slots=True)
class Balanced:
    """Groups of as many samples as there are classes, each class once in each group, in an order of its own."""

    classes: tuple[Subset, ...]
    seed: int

    def __call__(self, k: int) -> int:
        """Return the number of the sample that is drawn at place `k`."""
        group, place = divmod(k, len(self.classes))
        chosen = int(_permutation(len(self.classes), self.seed, group)[place])
        return self.classes[chosen](group)


@lru_cache(maxsize=1024)
def _permutation(n: int, seed: int, number: int) -> np.ndarray:
    return np.random.default_rng([seed, number]).permutation(n)


def turn(n: int, seed: int, number: int) -> int:
    """Return which of `n` things has its turn: any `n` numbers that follow a multiple of `n` have each once."""
    round_, place = divmod(number, n)
    return int(_permutation(n, seed, round_)[place])


@dataclass(frozen=True, slots=True)
class Mixture:
    """Samples of several sources in fixed proportions, evenly interleaved."""

    weights: tuple[float, ...]

    def __call__(self, position: int) -> tuple[int, int]:
        """Return the source whose turn it is at `position`, and how often it had its turn before."""
        for source, weight in enumerate(self.weights[:-1]):
            part = round(_ONE * weight / sum(self.weights[source:]))
            before, after = position * part // _ONE, (position + 1) * part // _ONE
            if after > before:
                return source, before
            position -= before
        return len(self.weights) - 1, position


def order_of(
    sizes: Sequence[int], labels: np.ndarray | None, seed: int, *, share: float, balanced: bool, block: int
) -> Shuffled | Subset | Balanced:
    """Return the order of one source; a `share` below 1 leaves out what the seed does not draw, class by class."""
    n = sum(sizes)
    if not balanced and share == 1.0:
        return Shuffled(tuple(sizes), seed, block)
    groups = [np.arange(n)] if labels is None else [np.nonzero(labels == c)[0] for c in np.unique(labels)]
    rng = np.random.default_rng([seed, n])
    kept = [np.sort(rng.permutation(g)[: max(1, round(share * len(g)))]) for g in groups]
    if not balanced:
        members = np.sort(np.concatenate(kept))
        return Subset(members, Shuffled((len(members),), seed, block))
    return Balanced(tuple(Subset(g, Shuffled((len(g),), seed_of(seed, c), 1)) for c, g in enumerate(kept)), seed)
