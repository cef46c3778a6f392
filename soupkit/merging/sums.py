"""Sums over whole tensors, with the same bits however the work is cut and on every device: in float64, over blocks of
fixed size, each summed by a fixed tree, the blocks' sums added exactly."""

from collections.abc import Callable, Sequence
from math import fsum

import torch
from torch import Tensor

# Sums over a tensor are taken over blocks of this many elements, whatever the slab size: part of the result's bits.
SUM_BLOCK = 1 << 20
# Products in float32 are summed over runs of so many elements, so large that the interpreter's share is small; with
# many vectors they are shorter, so that all products of a run are at most so many.
_PRODUCT_RUN = 1 << 19
_MOST_PRODUCTS = 1 << 23
_WIDENED = 64  # sums of a run in float32, at which float64 takes over
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


def products(xs: Sequence[Tensor], origin: Tensor) -> dict[tuple[int, int], float]:
    """Return the dot products of each two of `xs` less `origin`, by their numbers i <= j: 1-D tensors on one device.

    Differences, products and the lower levels of the fixed trees are float32: a product is within some 1e-7 of the
    product of the lengths, as long as no square of a difference leaves float32's range.
    """
    n, m = origin.numel(), len(xs)
    run = min(_PRODUCT_RUN, 1 << max(0, (n - 1).bit_length()))
    while run > _WIDENED and run * m * (m + 1) // 2 > _MOST_PRODUCTS:
        run //= 2
    vectors, start = (torch.empty(k, run, dtype=torch.float32, device=origin.device) for k in (m, 1))
    pairs = [(i, i + apart) for apart in range(m) for i in range(m - apart)]
    terms = torch.empty(len(pairs), run, dtype=torch.float32, device=origin.device)
    parts = []
    for first in range(0, n, run):
        here = slice(first, min(first + run, n))
        size = here.stop - here.start
        for vector, x in zip((*vectors, start[0]), (*xs, origin), strict=True):
            vector[:size].copy_(x[here])
            vector[size:].zero_()
        vectors.sub_(start)
        row = 0
        for apart in range(m):
            torch.mul(vectors[: m - apart], vectors[apart:], out=terms[row : row + m - apart])
            row += m - apart
        width = run
        while width > _WIDENED:
            width //= 2
            terms[:, :width].add_(terms[:, width : 2 * width])
        parts.append(terms[:, :width].double())
    sums = torch.cat(parts, dim=1).tolist() if parts else [[] for _ in pairs]
    return {pair: _added(row) for pair, row in zip(pairs, sums, strict=True)}


def _added(parts: Sequence[float]) -> float:
    try:
        return fsum(parts)
    except (OverflowError, ValueError):  # of infinities
        return sum(parts)


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
