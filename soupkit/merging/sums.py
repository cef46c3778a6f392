"""Sums over whole tensors, with the same bits however the work is cut and on every device: in float64, over blocks of
fixed size, each summed by a fixed tree, the blocks' sums added exactly."""

from collections.abc import Callable, Sequence
from math import fsum

import torch
from torch import Tensor

# Sums over a tensor are taken over blocks of this many elements, whatever the slab size: part of the result's bits.
SUM_BLOCK = 1 << 20
# Of these a tree takes its lowest levels at once, as vectors that stay in the processor's cache.
_LEAF = 1 << 15

Terms = Callable[[list[Tensor]], list[Tensor]]


def block_sums(terms: Terms, tensors: Sequence[Tensor]) -> list[list[float]]:
    """Return, for each vector that `terms` makes, the sums of it over the tensors' blocks.

    `terms` gets runs of the 1-D `tensors` in float64, and returns vectors as long as they are, which are used up.
    """
    n = tensors[0].numel()
    blocks = [_block_sum(terms, [x[start : start + SUM_BLOCK] for x in tensors]) for start in range(0, n, SUM_BLOCK)]
    return [list(sums) for sums in zip(*blocks, strict=True)]


def sums(terms: Terms, tensors: Sequence[Tensor]) -> list[float]:
    """Return the sum of each vector that `terms` makes over all elements; nothing for tensors without any."""
    return [fsum(parts) for parts in block_sums(terms, tensors)]


def _block_sum(terms: Terms, tensors: list[Tensor]) -> list[float]:
    n = tensors[0].numel()
    size = 1 << max(0, (n - 1).bit_length())
    leaf = min(size, _LEAF) if tensors[0].device.type == "cpu" else size
    count = size // leaf

    def node(first: int, step: int) -> list[Tensor]:
        """Sum leaves `first`, `first + step`, ... element by element, as halving the whole block does."""
        if step == count:
            here = [x[first * leaf : (first + 1) * leaf].to(torch.float64, copy=True) for x in tensors]
            return [_padded(v, leaf) for v in terms(here)]
        total = node(first, 2 * step)
        if (first + step) * leaf < n:
            for left, right in zip(total, node(first + step, 2 * step), strict=True):
                left.add_(right)
        return total

    return [_tree_sum(v) for v in node(0, 1)]


def _padded(x: Tensor, n: int) -> Tensor:
    return x if x.numel() == n else torch.cat([x, x.new_zeros(n - x.numel())])


def _tree_sum(x: Tensor) -> float:
    """Sum a 1-D float64 tensor by halving; uses up `x`. Elementwise additions only: the same on every device."""
    n = x.numel()
    while n > 1:
        n //= 2
        x = x[:n].add_(x[n : 2 * n])
    return float(x)
