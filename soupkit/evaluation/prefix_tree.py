"""A causal text tower over the tree of its prompts' prefixes: what two prompts begin with is computed once.

Prompts that differ after a common beginning share the features of that beginning, because no token sees the ones after
it; and nothing after the end-of-text token is ever computed. Nodes are numbered depth first, so what a run of nodes
attends to lies in the run itself or among the ancestors of its first node: attention is dense over short runs with
their ancestors before them, under a mask, and all else is one matrix product over all nodes.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from soupkit.evaluation.adapter import Block, CausalTextTower

# Nodes that attend together. Each looks at all of its run, so a short one wastes little; a long one needs fewer copies
# of ancestors.
_RUN = 64
# Tokens that go through a linear layer together, a multiple of the run: the activations of a block's MLP stay small.
_ROWS = 2048
_BLOCK = 4096  # prompts that are compared with one another at a time


@dataclass(frozen=True, slots=True)
class PrefixTree:
    """The distinct prefixes of some prompts, depth first, padded to whole runs.

    `tokens` and `positions` [nodes] are int32, as are `ends` [prompts], each prompt's last node, and `seen`
    [runs, reach + run], the nodes that a run looks at: the ancestors of its first node, by their depth, and its own.
    `bits` [runs, run, (reach + run) / 8, rounded up] uint8 say, lowest bit first, whether a node attends to one of
    them, an ancestor or itself. `size` counts nodes without padding.
    """

    tokens: Tensor
    positions: Tensor
    ends: Tensor
    seen: Tensor
    bits: Tensor
    size: int

    def to(self, device: torch.device) -> "PrefixTree":
        """Return the same tree on `device`."""
        names = ("tokens", "positions", "ends", "seen", "bits")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def mask(self) -> Tensor:
        """Return `bits` as booleans, [runs, 1, run, reach + run]."""
        number, bit = (torch.arange(n, device=self.bits.device) for n in (256, 8))
        table = (number[:, None] >> bit & 1).bool()
        return table[self.bits.int()].flatten(-2)[..., : self.seen.shape[1]].unsqueeze(1)


def shared_lengths(tokens: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return how many tokens each of the prompts `tokens` [n, width], which end with number `ends` [n], has in common
    with the one before it, int64 [n]; the first has none."""
    shared = np.zeros(len(tokens), np.int64)
    for start in range(1, len(tokens), _BLOCK):
        stop = min(start + _BLOCK, len(tokens))
        equal = tokens[start:stop] == tokens[start - 1 : stop - 1]
        first = np.where(equal.all(axis=1), tokens.shape[1], equal.argmin(axis=1))
        shared[start:stop] = np.minimum(first, np.minimum(ends[start:stop], ends[start - 1 : stop - 1]) + 1)
    return shared


def build_tree(tokens: np.ndarray, ends: np.ndarray) -> PrefixTree:
    """Build the tree of the prompts `tokens` [n, width], sorted, each up to and with its last token, number `ends`
    [n]."""
    tokens = tokens[:, : int(ends.max()) + 1]
    depth = np.arange(tokens.shape[1])
    new = (depth >= shared_lengths(tokens, ends)[:, None]) & (depth <= ends[:, None])
    # The node of a prompt at a depth is the last one that was made there.
    nodes = np.zeros(tokens.shape, np.int64)
    nodes[new] = np.arange(new.sum())
    np.maximum.accumulate(nodes, axis=0, out=nodes)
    prompts, depths = np.nonzero(new)
    size = len(depths)
    padding = (0, -size % _RUN)
    parents = np.where(depths, nodes[prompts, depths - 1], -1)
    depths = np.pad(depths, padding)
    seen, mask = _attention(np.pad(parents, padding, constant_values=-1), depths)
    return PrefixTree(
        tokens=_int32(np.pad(tokens[new], padding)),
        positions=_int32(depths),
        ends=_int32(nodes[np.arange(len(ends)), ends]),
        seen=_int32(seen),
        bits=torch.from_numpy(np.packbits(mask, axis=-1, bitorder="little")),
        size=size,
    )


def _int32(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.int32))


def _attention(parents: np.ndarray, depths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the nodes that each run looks at and which of them a node attends to, as `PrefixTree` has both.

    `parents` is -1 where a node has none.
    """
    first = np.arange(0, len(parents), _RUN)
    reach = int(depths[first].max())
    before = np.zeros((len(first), reach), np.int64)
    runs, at = np.arange(len(first)), parents[first]
    while (there := at >= 0).any():
        runs, at = runs[there], at[there]
        before[runs, depths[at]] = at
        at = parents[at]
    mask = np.zeros((len(first), _RUN, reach + _RUN), bool)
    nodes = at = np.arange(len(parents))
    while (there := at >= 0).any():  # one step up for all nodes at a time
        nodes, at = nodes[there], at[there]
        start = nodes // _RUN * _RUN
        mask[nodes // _RUN, nodes % _RUN, np.where(at >= start, reach + at - start, depths[at])] = True
        at = parents[at]
    return np.concatenate([before, np.arange(len(parents)).reshape(-1, _RUN)], axis=1), mask


def encode_tree(tower: CausalTextTower, tree: PrefixTree) -> Tensor:
    """Return the tower's features of every prompt of `tree`, [prompts, embed], not normalised."""
    x, mask = tower.embed(tree.tokens, tree.positions), tree.mask()
    for number, block in enumerate(tower.blocks, 1):
        mixed = _attend(block, x, tree.seen, mask)
        if number == len(tower.blocks):  # what follows concerns each node alone, and only the last ones are wanted
            x, mixed = x[tree.ends], mixed[tree.ends]
        for start in range(0, len(x), _ROWS):
            rows = x[start : start + _ROWS]
            rows += block.scale_1(linear(mixed[start : start + _ROWS], block.out_weight, block.out_bias))
            rows += block.scale_2(block.mlp(block.norm_2(rows)))
    return tower.finish(x)


def _attend(block: Block, x: Tensor, seen: Tensor, mask: Tensor) -> Tensor:
    """Return the attention of `x` [nodes, width] over each node's ancestors and itself, before its projection."""
    nodes, width = x.shape
    kv = x.new_empty(nodes, 2 * width)
    mixed = torch.empty_like(x)
    for start in range(0, nodes, _ROWS):
        here = slice(start, start + _ROWS)
        qkv = linear(block.norm_1(x[here]), block.in_weight, block.in_bias)
        kv[here] = qkv[:, width:]
        runs = slice(start // _RUN, (start + len(qkv)) // _RUN)
        near = seen[runs]  # ancestors come earlier, so theirs are known by now
        k, v = kv.index_select(0, near.flatten()).view(*near.shape, 2, block.heads, -1).unbind(2)
        q = qkv[:, :width].unflatten(0, (-1, _RUN)).unflatten(-1, (block.heads, -1))
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask[runs])
        mixed[here] = out.transpose(1, 2).reshape(len(qkv), width)
    return mixed
