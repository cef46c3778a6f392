"""The arithmetic that merge methods are written in: few operations, each with the same bits on every device.

Only separate multiplications, additions, subtractions, divisions and square roots are used, never fused ones, so
that a slab's place, its size, the thread and the device leave no trace in the result.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import torch
from torch import Tensor

from soupkit.merging.masks import Masks
from soupkit.merging.selection import DIGITS, Selection
from soupkit.merging.sums import products, sums

# Elements that a formula is given at a time. It makes a dozen passes over them: they should stay in a core's cache.
CPU_RUN = 1 << 17
CUDA_RUN = 1 << 23

# Squares below 1e-38 are lost in float32: as much as a millionth of this only where a tensor has 1e12 of them.
_SMALL_SQUARE = 1e-20

Formula = Callable[[Sequence[Tensor], Any], Tensor]  # of the ingredients' elements and the base's, None without one
Magnitude = Callable[[Sequence[Tensor]], Tensor]


def accumulator_dtype(dtypes: Sequence[torch.dtype]) -> torch.dtype:
    """Return float32 where every input has at most 16 bits, float64 otherwise."""
    return torch.float32 if all(d.itemsize <= 2 for d in dtypes) else torch.float64


@dataclass(frozen=True, slots=True)
class AtHand:
    """What a method is called for: `pieces` of tensors, one after the other, each (name, first element, one after the
    last); where their result may be written to as it is made, 1-D in the output's dtype."""

    pieces: tuple[tuple[str, int, int], ...]
    target: Tensor | None = None


class Arithmetic(Masks):
    """Operations on tensors in an accumulator of fixed dtype, with scratch memory that is used again and again.

    >>> ops = Arithmetic(torch.float64, torch.device("cpu"))
    >>> ops.begin(AtHand((("weight", 0, 2),)))
    >>> ops.mean([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 6.0])]).tolist()
    [2.0, 4.0]
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(dtype, device)
        self.run = CPU_RUN if device.type == "cpu" else CUDA_RUN
        self._all: tuple[tuple[str, int, int], ...] = ()
        self._target: Tensor | None = None

    def begin(self, at_hand: AtHand) -> None:
        """Take all memory back, and say what the next call of a method is for."""
        self.reset()
        self.pieces = self._all = at_hand.pieces
        self._target = at_hand.target

    @property
    def name(self) -> str:
        """The name of the tensor at hand; of several, the first one's."""
        return self._all[0][0]

    def sum(self, xs: Sequence[Tensor]) -> Tensor:
        """Return the sum of `xs`, added in their order."""
        total = self.copy(xs[0])
        for x in xs[1:]:
            self.add(total, x)
        return total

    def add(self, total: Tensor, x: Tensor) -> Tensor:
        """Add `x` to `total`, a result of this accumulator, in place."""
        if x.dtype == self.dtype or self.device.type != "cpu":
            return total.add_(x)
        # The same bits as adding narrower numbers at once, which on the CPU takes new memory for each operation.
        total.add_(self.copy(x))
        self.release()
        return total

    def mean(self, xs: Sequence[Tensor]) -> Tensor:
        """Return the sum of `xs`, then one division."""
        return self.divide(self.sum(xs), len(xs))

    def divide(self, x: Tensor, divisor: float) -> Tensor:
        """Divide `x` in place, with one rounding."""
        if self.device.type == "cpu":
            return x.div_(divisor)
        # CUDA would multiply by the reciprocal of a number that comes from the host
        return x.div_(torch.full((), divisor, dtype=self.dtype, device=self.device))

    def weighted_sum(self, xs: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """Return the sum of each product of `xs` and `weights`, added in their order."""
        total = self.copy(xs[0]).mul_(weights[0])
        if len(xs) > 1:
            product = self.take(total.numel()).view(total.shape)
            for x, weight in zip(xs[1:], weights[1:], strict=True):
                total.add_(product.copy_(x).mul_(weight))
            self.release()
        return total

    def difference(self, x: Tensor, y: Tensor) -> Tensor:
        """Return `x - y`, both taken to the accumulator's dtype first."""
        out = self.copy(x)
        if y.dtype == self.dtype or self.device.type != "cpu":
            return out.sub_(y)
        # The same bits as subtracting narrower numbers at once, which takes twice as long (0.15 ns an element).
        out.sub_(self.copy(y))
        self.release()
        return out

    def task_vectors(self, ingredients: Sequence[Tensor], base: Tensor) -> list[Tensor]:
        """Return each ingredient's difference from the base."""
        vectors = [self.copy(x) for x in ingredients]
        origin = self.copy(base)
        for vector in vectors:
            vector.sub_(origin)
        self.release()
        return vectors

    def zeros(self, n: int) -> Tensor:
        """Return `n` zeros."""
        return self.take(n).zero_()

    def by_runs(
        self, formula: Formula, ingredients: Sequence[Tensor], base: Tensor | None = None, *, row: int = 1
    ) -> Tensor:
        """Return `formula(ingredients, base)`, 1-D, which is evaluated a run of elements at a time.

        It must make each element from the same one of its arguments; or each `row` of so many elements from the same
        row of them. What it returns is rounded to the output's dtype where the caller has a place for the output.
        """
        n = ingredients[0].numel()
        out = self._target
        if out is None and n > self.run:
            out = self.take(n)
        return self._run_by_run(formula, ingredients, base, row, out)

    def evaluated(
        self, formula: Formula, ingredients: Sequence[Tensor], base: Tensor | None, *, row: int = 1
    ) -> Tensor:
        """Return the same in the accumulator's dtype, in memory of its own: for what is only a step of a method."""
        return self._run_by_run(formula, ingredients, base, row, self.take(ingredients[0].numel()))

    def _run_by_run(
        self, formula: Formula, ingredients: Sequence[Tensor], base: Tensor | None, row: int, out: Tensor | None
    ) -> Tensor:
        flat, origin = [x.reshape(-1) for x in ingredients], base.reshape(-1) if base is not None else None
        if out is None:
            return formula(flat, origin)
        begun, n = self._taken, flat[0].numel()
        step = max(row, self.run // row * row)
        for start in range(0, n, step):
            run = slice(start, min(start + step, n))
            self._taken = begun
            self.pieces = _cut(self._all, run.start, run.stop)
            out[run].copy_(formula([x[run] for x in flat], origin[run] if origin is not None else None))
        self._taken, self.pieces = begun, self._all
        return out

    def dot(self, x: Tensor, y: Tensor) -> float:
        """Return the dot product, in float64, as a sum of fixed blocks whose inner order is a fixed tree."""
        return self.total(lambda both: [both[0].mul_(both[1])], [x, y])[0]

    def total(self, terms: Callable[[list[Tensor]], list[Tensor]], tensors: Sequence[Tensor]) -> list[float]:
        """Return the sum over all elements of each vector that `terms` makes of runs of `tensors` in float64."""
        flat = [x.reshape(-1) for x in tensors]
        return sums(terms, flat) if flat[0].numel() else [0.0] * len(terms([x.double() for x in flat]))

    def shares(self, xs: Sequence[Tensor], origin: Tensor) -> list[list[float]]:
        """Return the dot products of each two of `xs` less `origin`, each within some 1e-7 of the product of the
        lengths: enough for a cosine that is a share of something, and not for the angle of vectors that nearly agree.

        Where the accumulator is float32, they are taken in that, which needs a seventh of the time of `gram`.
        """
        if self.width == 32:
            n, found = len(xs), products([x.reshape(-1) for x in xs], origin.reshape(-1))
            # Else squares of small numbers were lost, or those of large ones overflowed.
            if all(_SMALL_SQUARE <= found[i, i] < inf for i in range(n)):
                return [[found[min(i, j), max(i, j)] for j in range(n)] for i in range(n)]
        return self.gram(xs, origin)

    def gram(self, xs: Sequence[Tensor], origin: Tensor | None = None) -> list[list[float]]:
        """Return the dot products of each two of `xs`, less `origin` where that is given, in float64."""
        n = len(xs)

        def pairwise(here: list[Tensor]) -> list[Tensor]:
            vectors = here[:n]
            if origin is not None:
                for x in vectors:
                    x.sub_(here[n])
            return [vectors[i] * vectors[j] for i in range(n) for j in range(i, n)]

        upper = iter(self.total(pairwise, [*xs, origin] if origin is not None else xs))
        rows = [[0.0] * n for _ in range(n)]
        for i in range(n):
            for j in range(i, n):
                rows[i][j] = rows[j][i] = next(upper)
        return rows

    def largest(self, ranks: Sequence[int], magnitude: Magnitude, tensors: Sequence[Tensor]) -> list[float]:
        """Return the numbers of these `ranks` (1: the largest) among those that `magnitude` makes of `tensors`.

        `magnitude` makes each element, which is not negative, from the same one of its arguments.
        """
        selections = [Selection(rank, self.width) for rank in ranks]
        while not all(s.settled for s in selections):
            for selection, counts in zip(selections, self.count(selections, magnitude, tensors), strict=True):
                selection.settle(counts)
        return [s.value for s in selections]

    def count(
        self, selections: Sequence[Selection], magnitude: Magnitude, tensors: Sequence[Tensor]
    ) -> list[np.ndarray]:
        """Return for each of `selections` the counts of the next digits of what `magnitude` makes of `tensors`."""
        flat = [x.reshape(-1) for x in tensors]
        begun, n = self._taken, flat[0].numel()
        counts = [np.zeros(DIGITS, np.int64) for _ in selections]
        for start in range(0, n, self.run):
            self._taken = begun
            run = slice(start, min(start + self.run, n))
            self.pieces = _cut(self._all, run.start, run.stop)
            numbers = magnitude([x[run] for x in flat])
            for selection, total in zip(selections, counts, strict=True):
                total += selection.count(numbers)
        self._taken, self.pieces = begun, self._all
        return counts


def _cut(pieces: tuple[tuple[str, int, int], ...], start: int, stop: int) -> tuple[tuple[str, int, int], ...]:
    """Return elements `start` to `stop` of `pieces`, counted through all of them."""
    cut, position = [], 0
    for name, first, end in pieces:
        low, high = max(start - position, 0), min(stop - position, end - first)
        if low < high:
            cut.append((name, first + low, first + high))
        position += end - first
    return tuple(cut)
