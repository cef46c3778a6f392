"""Grams of the inputs that each block gets from the merged blocks before it, as RegMean++ asks for them (Nguyen et al.
2025, section 3, and as the authors' code does it): of one block after the other, each ingredient's own block is put
behind the blocks that are merged so far and shown the ingredient's images; then the block is merged by these Grams, and
the next one follows.

What is in no block is averaged before the start; its linear layers are merged each where the model comes to it. Held
are one live model and, of a few layers at a time, the sums of one ingredient and of the merge. A pass ends behind the
block at hand, and begins at the image: L blocks take (L + 1) / 2 times the passes that plain Grams take.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from soupkit.checkpoint.towers import block_of
from soupkit.evaluation.statistics_sums import GramSums, Shown
from soupkit.merging.regression import Regression

SUMS = 3  # [in, in] matrices that are held of a layer: the Gram at hand, and two sums of the regression


@dataclass(frozen=True, slots=True)
class Member:
    """An ingredient: its images before the live model, and `read(name)`, which returns one of its tensors."""

    shown: Shown
    read: Callable[[str], Tensor]


@dataclass(frozen=True, slots=True)
class Found:
    """The Gram of layer `name` of ingredient number `member`, float32 [in, in]."""

    member: int
    name: str
    gram: Tensor


class MergedGrams:
    """Collects the Grams of `members`, which share the tensors `live` of one model by the names that they have."""

    def __init__(self, members: Sequence[Member], live: Mapping[str, Tensor], alpha: float, ridge: float) -> None:
        """Put the ingredients' means into the live model."""
        self.members, self._live = members, live
        self._alpha, self._ridge = alpha, ridge
        self._sums = [GramSums(member.shown) for member in members]
        self.shapes = self._sums[0].shapes()
        self.transposed = self._sums[0].transposed
        self._average(live)

    @property
    def steps(self) -> list[list[str]]:
        """The layers that are merged together, in the order of the model: those of one block."""
        steps: dict[str, list[str]] = {}
        for name in self.shapes:
            steps.setdefault(block_of(name) or name, []).append(name)
        return list(steps.values())

    def collect(self, groups: Callable[[Sequence[str]], Iterator[list[str]]]) -> Iterator[Found]:
        """Yield all Grams; `groups` cuts the layers of a step into those that are summed together."""
        for layers in self.steps:
            block = block_of(layers[0])
            own = [layers[0]] if block is None else [name for name in self._live if block_of(name) == block]
            merged = {}
            for group in groups(layers):
                regressions = {name: Regression(self._alpha, self._ridge) for name in group}
                for i, (member, sums) in enumerate(zip(self.members, self._sums, strict=True)):
                    self._fill(own, member.read)
                    for name, gram in sums.of(group, no_further=True).items():
                        kept = gram.float()
                        yield Found(i, name, kept)
                        # The merge has what the file has.
                        regressions[name].add(kept.double(), self._sided(name, member.read(name)))
                for name, regression in regressions.items():
                    merged[name] = self._sided(name, regression.solved())
            self._average([name for name in own if name not in merged])
            self._fill(merged, merged.__getitem__)

    def _sided(self, name: str, weight: Tensor) -> Tensor:
        """Return a layer's weight as [in, out], or one that is so as it is stored."""
        device = self._live[name].device
        return (weight if name in self.transposed else weight.T).to(device, torch.float64)

    def _average(self, names: "Sequence[str] | Mapping[str, Tensor]") -> None:
        for name in names:
            total = self.members[0].read(name).double()
            for member in self.members[1:]:
                total += member.read(name).double()
            self._put(name, total / len(self.members))

    def _fill(self, names: "Sequence[str] | Mapping[str, Tensor]", read: Callable[[str], Tensor]) -> None:
        for name in names:
            self._put(name, read(name))

    def _put(self, name: str, values: Tensor) -> None:
        with torch.no_grad():
            self._live[name].copy_(values)
