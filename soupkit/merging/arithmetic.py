"""The arithmetic that merge methods are written in: few operations, each with the same bits on every device.

Only separate multiplications, additions, subtractions, divisions and square roots are used, never fused ones, so
that a slab's place, its size, the thread and the device leave no trace in the result.
"""

from collections.abc import Sequence
from math import fsum

import torch
from torch import Tensor

# Sums over a tensor are taken over blocks of this many elements, whatever the slab size: part of the result's bits.
SUM_BLOCK = 1 << 20


def accumulator_dtype(dtypes: Sequence[torch.dtype]) -> torch.dtype:
    """Return float32 where every input has at most 16 bits, float64 otherwise."""
    return torch.float32 if all(d.itemsize <= 2 for d in dtypes) else torch.float64


class Arithmetic:
    """Operations on 1-D tensors in an accumulator of fixed dtype, with scratch memory that is used again and again.

    What an operation returns lives in scratch memory: it may be changed in place, and is gone after `reset`.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype = dtype
        self.device = device
        self._scratch: list[Tensor] = []
        self._taken = 0

    def reset(self) -> None:
        """Take all scratch memory back; earlier results are gone."""
        self._taken = 0

    def take(self, n: int) -> Tensor:
        """Return memory for `n` elements, with whatever lies there."""
        if self._taken == len(self._scratch):
            self._scratch.append(torch.empty(0, dtype=self.dtype, device=self.device))
        if self._scratch[self._taken].numel() < n:
            self._scratch[self._taken] = torch.empty(n, dtype=self.dtype, device=self.device)
        self._taken += 1
        return self._scratch[self._taken - 1][:n]

    def copy(self, x: Tensor) -> Tensor:
        """Return `x` in the accumulator's dtype."""
        return self.take(x.numel()).copy_(x)

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
            product = self.take(total.numel())
            for x, weight in zip(xs[1:], weights[1:], strict=True):
                total.add_(product.copy_(x).mul_(weight))
            self.release()
        return total

    def release(self) -> None:
        """Give the last result's memory back; the ones before it stay."""
        self._taken -= 1

    def difference(self, x: Tensor, y: Tensor) -> Tensor:
        """Return `x - y`, both taken to the accumulator's dtype first."""
        return self.copy(x).sub_(y)

    def dot(self, x: Tensor, y: Tensor) -> float:
        """Return the dot product, in float64, as a sum of fixed blocks whose inner order is a fixed tree."""
        return fsum(
            _tree_sum(a.to(torch.float64, copy=True).mul_(b))
            for a, b in zip(x.split(SUM_BLOCK), y.split(SUM_BLOCK), strict=True)
            if a.numel()
        )


def _tree_sum(x: Tensor) -> float:
    """Sum a 1-D float64 tensor by halving; uses up `x`. Elementwise additions only: the same on every device."""
    n = 1 << max(0, (x.numel() - 1).bit_length())
    if n != x.numel():
        x = torch.cat([x, x.new_zeros(n - x.numel())])
    while n > 1:
        n //= 2
        x = x[:n].add_(x[n : 2 * n])
    return float(x)
