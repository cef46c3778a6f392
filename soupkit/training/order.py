"""Which sample comes when: a function of the seed and the count of samples alone, whatever the number of ranks."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

_ONE = 1 << 32  # weights of a mixture are counted in parts of this, so that the order is exact for any length


def seed_of(*parts: object) -> int:
    """Return a seed of 63 bits that depends on all of `parts`."""
    digest = hashlib.blake2b(":".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Shuffled:
    """Every sample once per epoch: shards are shuffled, then the samples of `block` shards at a time.

    It holds a few numbers per shard and the permutations of the groups that are being read.
    """

    def __init__(self, sizes: Sequence[int] | np.ndarray, seed: int, block: int = 16) -> None:
        self._sizes = np.asarray(sizes, dtype=np.int64)
        self._first = np.concatenate([[0], np.cumsum(self._sizes)])
        self._seed, self._block = seed, block
        self._total = int(self._first[-1])
        self._shards = lru_cache(maxsize=2)(self._shuffle)
        self._starts = lru_cache(maxsize=2)(self._group_starts)
        self._members = lru_cache(maxsize=4)(self._permute)

    def __len__(self) -> int:
        return self._total

    def __call__(self, k: int) -> int:
        """Return the number of the sample that is drawn at position `k`."""
        epoch, position = divmod(k, self._total)
        starts = self._starts(epoch)
        group = int(np.searchsorted(starts, position, side="right")) - 1
        return int(self._members(epoch, group)[position - int(starts[group])])

    def _shuffle(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, epoch]).permutation(len(self._sizes))

    def _group_starts(self, epoch: int) -> np.ndarray:
        lengths = np.add.reduceat(self._sizes[self._shards(epoch)], np.arange(0, len(self._sizes), self._block))
        return np.cumsum(lengths) - lengths

    def _permute(self, epoch: int, group: int) -> np.ndarray:
        shards = self._shards(epoch)[group * self._block : (group + 1) * self._block]
        members = np.concatenate([np.arange(self._first[s], self._first[s + 1]) for s in shards])
        return np.random.default_rng([self._seed, epoch, group + 1]).permutation(members)


class PartOfShards:
    """Another order over a part of the samples of every shard, drawn once for all epochs."""

    def __init__(self, sizes: Sequence[int] | np.ndarray, share: float, seed: int, block: int) -> None:
        sizes = np.asarray(sizes, dtype=np.int64)
        self._first = np.concatenate([[0], np.cumsum(sizes)])
        # Rounded along the sum, so that the part as a whole has its size however small the shards are.
        bounds = np.round(share * self._first).astype(np.int64)
        if not bounds[-1]:
            bounds = (self._first > 0).astype(np.int64)  # one sample is the least
        self._kept = bounds
        self._order = Shuffled(np.diff(bounds), seed, block)
        self._seed = seed
        self._drawn = lru_cache(maxsize=2 * block + 2)(self._draw)

    def __len__(self) -> int:
        return len(self._order)

    def __call__(self, k: int) -> int:
        """Return the number of the sample that is drawn at position `k`."""
        position = self._order(k)
        shard = int(np.searchsorted(self._kept, position, side="right")) - 1
        return int(self._first[shard] + self._drawn(shard)[position - int(self._kept[shard])])

    def _draw(self, shard: int) -> np.ndarray:
        n = int(self._first[shard + 1] - self._first[shard])
        return np.random.default_rng([self._seed, n, shard]).permutation(n)


@dataclass(frozen=True, slots=True)
class Subset:
    """Another order over the samples that `members` lists."""

    members: np.ndarray
    order: Shuffled

    def __len__(self) -> int:
        return len(self.members)

    def __call__(self, k: int) -> int:
        """Return the number of the sample that is drawn at position `k`."""
        return int(self.members[self.order(k)])


@dataclass(frozen=True, slots=True)
class Balanced:
    """Groups of as many samples as there are classes, each class once in each group, in an order of its own."""

    classes: tuple[Subset, ...]
    seed: int

    def __len__(self) -> int:
        return sum(map(len, self.classes))

    def __call__(self, k: int) -> int:
        """Return the number of the sample that is drawn at position `k`."""
        group, position = divmod(k, len(self.classes))
        chosen = int(_permutation(len(self.classes), self.seed, group)[position])
        return self.classes[chosen](group)


@lru_cache(maxsize=1024)
def _permutation(n: int, seed: int, number: int) -> np.ndarray:
    return np.random.default_rng([seed, number]).permutation(n)


def turn(n: int, seed: int, number: int) -> int:
    """Return which of `n` things has its turn: any `n` numbers that follow a multiple of `n` have each once."""
    round_, position = divmod(number, n)
    return int(_permutation(n, seed, round_)[position])


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
    sizes: Sequence[int] | np.ndarray, labels: Callable[[], np.ndarray] | None, seed: int, *, share: float,
    balanced: bool, block: int,
) -> Shuffled | PartOfShards | Subset | Balanced:  # fmt: skip
    """Return the order of one source; a `share` below 1 leaves out what the seed does not draw, class by class."""
    if not balanced and share == 1.0:
        return Shuffled(sizes, seed, block)
    if labels is None:
        return PartOfShards(sizes, share, seed, block)
    kept = part_of_classes(labels(), seed, share)
    if not balanced:
        members = np.sort(np.concatenate(kept))
        return Subset(members, Shuffled((len(members),), seed, block))
    return Balanced(tuple(Subset(g, Shuffled((len(g),), seed_of(seed, c), 1)) for c, g in enumerate(kept)), seed)


def part_of_classes(labels: np.ndarray, seed: int, share: float) -> list[np.ndarray]:
    """Return the numbers of the samples that `seed` draws of each class, int64 [n], a `share` of it and one at least.

    `labels` int64 [N] are the samples' classes.
    """
    rng = np.random.default_rng([seed, len(labels)])
    groups = [np.nonzero(labels == c)[0] for c in np.unique(labels)]
    return [np.sort(rng.permutation(g)[: max(1, round(share * len(g)))]) for g in groups]
