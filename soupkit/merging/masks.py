"""Which elements are kept: decided on the bits of numbers, with the same outcome on every device.

A mask is a tensor of integers as wide as the accumulator, -1 where an element is kept and 0 where it is not. Such
operations on integers run at the speed of the processor's cache; torch's on booleans took ten to seventy times as long
(0.06 ns an element for `and`, 1.8 for a product with booleans, 7 for `where`, one core of a Xeon).
"""

import math

import numpy as np
import torch
import xxhash
from torch import Tensor

from soupkit.merging.scratch import Scratch

_ONES = 0x7FFFFFFF  # random bits are 31, so that a difference of two of them does not overflow
_MULTIPLIERS = (0x7FEB352D, 0x846CA68B - (1 << 32))
_MOST = 1 << 30  # elements of a tensor that share a key


class Masks(Scratch):
    """Scratch memory with operations that choose elements. `pieces` says which elements are at hand."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(dtype, device)
        self.pieces: tuple[tuple[str, int, int], ...] = ()  # (tensor, first element, one after the last), in order
        self._counter = torch.empty(0, dtype=torch.int32, device=device)

    def bits(self, x: Tensor) -> Tensor:
        """View `x`, in the accumulator's dtype, as integers."""
        return x.view(self.integer)

    def magnitude_bits(self, x: Tensor) -> Tensor:
        """Return the bits of abs(x), in whose order the magnitudes are."""
        out = self.take_bits(x.numel())
        return torch.bitwise_and(self.bits(x), (1 << (self.width - 1)) - 1, out=out)

    def is_nonzero(self, x: Tensor) -> Tensor:
        """Return the mask of elements that are not zero."""
        mask = self.magnitude_bits(x)
        return mask.neg_().bitwise_right_shift_(self.width - 1)

    def is_above(self, x: Tensor, y: Tensor | float) -> Tensor:
        """Return the mask of x > y."""
        out = self.copy(x).neg_().add_(y)
        return self.bits(out).bitwise_right_shift_(self.width - 1)

    def has_larger_magnitude(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the mask of abs(x) > abs(y)."""
        mask, other = self.magnitude_bits(y), self.magnitude_bits(x)
        mask.sub_(other).bitwise_right_shift_(self.width - 1)
        self.release()
        return mask

    def has_sign_of(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the mask of elements with the same sign; zero has the sign of its bit."""
        out = self.take_bits(x.numel())
        return (
            torch.bitwise_xor(self.bits(x), self.bits(y), out=out).bitwise_right_shift_(self.width - 1).bitwise_not_()
        )

    def keep(self, x: Tensor, mask: Tensor) -> Tensor:
        """Set the elements of `x` that `mask` does not keep to zero, in place."""
        self.bits(x).bitwise_and_(mask)
        return x

    def as_number(self, mask: Tensor, number: float) -> Tensor:
        """Return `number` where `mask` keeps and zero elsewhere; uses up `mask`."""
        pattern = np.array([number], f"f{self.width // 8}").view(f"i{self.width // 8}")[0]
        return mask.bitwise_and_(int(pattern)).view(self.dtype)

    def choose(self, mask: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Set `y` to `x` where `mask` keeps, in place."""
        old, new = self.bits(y), self.bits(x)
        taken = self.take_bits(x.numel())
        old.bitwise_xor_(torch.bitwise_xor(old, new, out=taken).bitwise_and_(mask))
        self.release()
        return y

    def trim(self, x: Tensor, least: float) -> Tensor:
        """Set elements of magnitude below `least` to zero, in place."""
        if least <= 0:
            return x
        number = np.float32 if self.width == 32 else np.float64
        below = float(np.nextafter(number(least), number(0)))
        return torch.ops.aten.hardshrink.out(x, below, out=x)

    def trim_outliers(self, x: Tensor, largest: float) -> Tensor:
        """Set elements of magnitude above `largest` to zero, in place."""
        outliers = self.take(x.numel())
        torch.ops.aten.hardshrink.out(x, largest, out=outliers)
        x.sub_(outliers)
        self.release()
        return x

    def ascending(self, x: Tensor) -> Tensor:
        """Return the places of each row of `x` (rows, row) from its smallest magnitude to its largest (int64); equal
        magnitudes keep their order, so that it is the same on every device.

        On the CPU numpy's radix sort of 16 bits at a time took 8 ns an element, torch's stable argsort 63.
        """
        if self.device.type != "cpu":
            return x.abs().argsort(dim=1, stable=True)
        bits = x.abs().numpy().view(np.uint16)
        digits = torch.from_numpy(bits.reshape(*x.shape, self.width // 16))  # (rows, row, digits), the lowest first
        order = None
        for i in range(digits.shape[-1]):
            digit = digits[..., i].view(torch.int16)
            digit = digit.contiguous() if order is None else digit.gather(1, order)
            place = torch.from_numpy(digit.numpy().view(np.uint16).argsort(axis=1, kind="stable"))
            order = place if order is None else order.gather(1, place)
        assert order is not None
        return order

    def random_bits(self, seed: int, stream: int) -> Tensor:
        """Return 31 random bits for each element at hand (int32).

        They are a function of `seed`, `stream` (the ingredient's number), the tensor's name and the element's position
        in it alone. The mixer is Wellons' lowbias32 (https://github.com/skeeto/hash-prospector) with a second key
        between its multiplications.
        """
        out = self.take_bits(sum(stop - start for _, start, stop in self.pieces), torch.int32)
        position = 0
        for name, start, stop in self.pieces:
            while start < stop:
                end = min(stop, start - start % _MOST + _MOST)
                key = xxhash.xxh3_64_intdigest(f"{seed}/{stream}/{start // _MOST}/{name}".encode())
                self._mix(out[position : position + end - start], key, start % _MOST)
                position, start = position + end - start, end
        return out

    def _mix(self, out: Tensor, key: int, start: int) -> None:
        first, second = _signed(key & 0xFFFFFFFF), _signed(key >> 32)
        n = out.numel()
        if self._counter.numel() < n:
            self._counter = torch.arange(n, dtype=torch.int32, device=self.device)
        torch.add(self._counter[:n], start, out=out)
        shifted = self.take_bits(n, torch.int32)
        out.bitwise_xor_(first)
        for shift, multiplier, key_bits in ((16, _MULTIPLIERS[0], second), (15, _MULTIPLIERS[1], 0), (16, 1, 0)):
            torch.bitwise_right_shift(out, shift, out=shifted)  # an arithmetic shift: its new bits are cleared
            out.bitwise_xor_(shifted.bitwise_and_((1 << (32 - shift)) - 1))
            if multiplier != 1:
                out.mul_(multiplier)
            if key_bits:
                out.bitwise_xor_(key_bits)
        out.bitwise_and_(_ONES)
        self.release()

    def random_mask(self, probability: float, seed: int, stream: int) -> Tensor:
        """Return a mask that keeps each element at hand with `probability`, to 31 bits."""
        least = math.floor(probability * (_ONES + 1))
        if least > _ONES:
            return self.take_bits(sum(stop - start for _, start, stop in self.pieces)).fill_(-1)
        mask = self.random_bits(seed, stream).sub_(least).bitwise_right_shift_(31)
        if self.integer == torch.int32:
            return mask
        self.release()
        wide = mask.to(torch.int64)  # new memory: the mask lies where the wide one would
        return self.take_bits(wide.numel()).copy_(wide)


def _signed(x: int) -> int:
    return x - (1 << 32) if x >> 31 else x
