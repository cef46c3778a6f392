"""Memory that merge methods compute in: taken, given back and used again, so that a merge holds a few blocks."""

import torch
from torch import Tensor


class Scratch:
    """Numbered pieces of memory in the accumulator's dtype, on one device. The last one taken is given back first.

    What an operation returns lives here: it may be changed in place, and is gone after `reset`.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype = dtype
        self.device = device
        self.integer = torch.int32 if dtype.itemsize == 4 else torch.int64  # as wide, for what is done to bits
        self.width = 8 * dtype.itemsize
        self._memory: list[Tensor] = []
        self._taken = 0

    def reset(self) -> None:
        """Take all memory back; earlier results are gone."""
        self._taken = 0

    def take(self, n: int) -> Tensor:
        """Return memory for `n` elements, with whatever lies in it."""
        if self._taken == len(self._memory):
            self._memory.append(torch.empty(0, dtype=self.dtype, device=self.device))
        if self._memory[self._taken].numel() < n:
            self._memory[self._taken] = torch.empty(n, dtype=self.dtype, device=self.device)
        self._taken += 1
        return self._memory[self._taken - 1][:n]

    def take_bits(self, n: int, dtype: torch.dtype | None = None) -> Tensor:
        """Return memory for `n` integers: as wide as the accumulator, or of a `dtype` that is no wider."""
        dtype = dtype or self.integer
        if dtype.itemsize == self.dtype.itemsize:
            return self.take(n).view(dtype)
        return self.take(-(-n * dtype.itemsize // self.dtype.itemsize)).view(dtype)[:n]

    def release(self, count: int = 1) -> None:
        """Give the last results' memory back; the ones before them stay."""
        self._taken -= count

    def copy(self, x: Tensor) -> Tensor:
        """Return `x` in the accumulator's dtype."""
        return self.take(x.numel()).view(x.shape).copy_(x)
