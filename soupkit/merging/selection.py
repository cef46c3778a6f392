"""The k-th largest of many numbers that are seen a run at a time: sixteen bits of it with each look at all of them."""

import numpy as np
import torch
from torch import Tensor

_DIGIT = 16
DIGITS = 1 << _DIGIT


class Selection:
    """Finds the number of rank `rank` (1: the largest) among numbers that are not negative, exactly.

    Their bits as integers have the numbers' order. Each look counts the next sixteen bits of those numbers that may
    still be it; counts of several looks at parts of them are added. float32 takes two looks, float64 four.
    """

    def __init__(self, rank: int, width: int) -> None:
        """`width` is that of the numbers, in bits: 32 or 64."""
        self.rank = rank
        self.width = width
        self.shift = width  # of the digits that are settled
        self.prefix = 0

    @property
    def settled(self) -> bool:
        """Whether the number is known."""
        return self.shift == 0

    def count(self, numbers: Tensor) -> np.ndarray:
        """Return how often each next digit occurs (int64, 65,536 of them) among `numbers`, 1-D floats as wide or
        narrower, which are kept."""
        wide = numbers.to(torch.float32 if self.width == 32 else torch.float64)
        # Without their sign, which NaN may have.
        bits = wide.view(torch.int32 if self.width == 32 else torch.int64) & ((1 << (self.width - 1)) - 1)
        key = bits >> (self.shift - _DIGIT)
        if self.shift < self.width:
            other = (bits >> self.shift).bitwise_xor_(self.prefix)
            outside = other.neg().bitwise_or_(other).bitwise_right_shift_(self.width - 1)  # -1 where prefixes differ
            key.bitwise_and_(DIGITS - 1).bitwise_and_(~outside).bitwise_or_(outside.bitwise_and_(DIGITS))
        return torch.bincount(key, minlength=DIGITS + 1)[:DIGITS].cpu().numpy()

    def settle(self, counts: np.ndarray) -> None:
        """Settle the next digit by the `counts` of all numbers."""
        above = np.cumsum(counts[::-1])
        place = int(np.searchsorted(above, self.rank))
        digit = DIGITS - 1 - place
        self.rank -= int(above[place - 1]) if place else 0
        self.prefix = self.prefix << _DIGIT | digit
        self.shift -= _DIGIT

    @property
    def value(self) -> float:
        """The number, once it is settled."""
        return float(np.array([self.prefix], f"u{self.width // 8}").view(f"f{self.width // 8}")[0])
