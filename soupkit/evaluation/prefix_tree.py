"""A causal text tower over the tree of its prompts' prefixes: what two prompts begin with is computed once.

Prompts that differ after a common beginning share the features of that beginning, because no token sees the ones after
it; and nothing after the end-of-text token is ever computed. The tree is cut into chains, runs of tokens without a
branch. Chains of one length and depth attend together, without padding; all else is one matrix product over all nodes.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from soupkit.evaluation.adapter import Block, CausalTextTower

# Tokens that go through a linear layer together: the activations of a block's MLP stay small.
_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Chains:
    """Chains of one shape: `nodes` [n, length] are their own, `seen` [n, depth + length] what they attend to."""

    nodes: Tensor
    seen: Tensor


@dataclass(frozen=True, slots=True)
class PrefixTree:
    """The distinct prefixes of some prompts: `tokens` and `positions` [nodes], int64; `ends` [prompts] is each prompt's
    last node."""

    tokens: Tensor
    positions: Tensor
    ends: Tensor
    chains: tuple[Chains, ...]

    def to(self, device: torch.device) -> "PrefixTree":
        """Return the same tree on `device`."""
        chains = tuple(Chains(c.nodes.to(device), c.seen.to(device)) for c in self.chains)
        return PrefixTree(self.tokens.to(device), self.positions.to(device), self.ends.to(device), chains)


def build_tree(prompts: Sequence[Sequence[int]]) -> PrefixTree:
    """Build the tree of `prompts`, each the tokens up to and with its end-of-text token."""
    known: dict[tuple[int, int], int] = {}
    parents: list[int] = []
    tokens: list[int] = []
    depths: list[int] = []
    ends = []
    for prompt in prompts:
        node = -1
        for depth, token in enumerate(prompt):
            key = (node, token)
            following = known.get(key, -1)
            if following < 0:
                following = known[key] = len(tokens)
                parents.append(node)
                tokens.append(token)
                depths.append(depth)
            node = following
        ends.append(node)
    return PrefixTree(torch.tensor(tokens), torch.tensor(depths), torch.tensor(ends), tuple(_chains(parents, depths)))


def _chains(parents: list[int], depths: list[int]) -> list[Chains]:
    children = [0] * len(parents)
    for parent in parents:
        if parent >= 0:
            children[parent] += 1
    # A node is numbered after its parent, so one walk in order meets every chain from its beginning.
    chain_of: dict[int, list[int]] = {}
    chains: list[list[int]] = []
    for node, parent in enumerate(parents):
        if parent >= 0 and children[parent] == 1:
            chain = chain_of[parent]
            chain.append(node)
        else:
            chain = [node]
            chains.append(chain)
        chain_of[node] = chain
    shapes: dict[tuple[int, int], list[tuple[list[int], list[int]]]] = defaultdict(list)
    for chain in chains:
        path: list[int] = []
        above = parents[chain[0]]
        while above >= 0:
            path.append(above)
            above = parents[above]
        shapes[depths[chain[0]], len(chain)].append((chain, path[::-1] + chain))
    return [
        Chains(torch.tensor([own for own, _ in group]), torch.tensor([seen for _, seen in group]))
        for _, group in sorted(shapes.items())
    ]


def encode_tree(tower: CausalTextTower, tree: PrefixTree) -> Tensor:
    """Return the tower's features of every prompt of `tree`, [prompts, embed], not normalised."""
    x = tower.embed(tree.tokens, tree.positions)
    for block in tower.blocks:
        x = _attend(block, x, tree.chains)
        for start in range(0, len(x), _ROWS):
            rows = x[start : start + _ROWS]
            rows += block.scale_2(block.mlp(block.norm_2(rows)))
    return tower.finish(x[tree.ends])


def _attend(block: Block, x: Tensor, chains: Sequence[Chains]) -> Tensor:
    """Add attention over each node's ancestors and itself to `x` [nodes, width]."""
    width, heads = x.shape[1], block.heads
    qkv = x.new_empty(len(x), 3 * width)
    for start in range(0, len(x), _ROWS):
        rows = x[start : start + _ROWS]
        qkv[start : start + _ROWS] = linear(block.norm_1(rows), block.in_weight, block.in_bias)
    mixed = torch.empty_like(x)
    for chain in chains:
        n, length = chain.nodes.shape
        span = chain.seen.shape[1]
        for start in range(0, n, max(1, _ROWS // span)):
            here = slice(start, start + max(1, _ROWS // span))
            nodes, seen = chain.nodes[here], chain.seen[here]
            q = qkv[nodes, :width].view(len(nodes), length, heads, -1).transpose(1, 2)
            kv = qkv[seen, width:].view(len(nodes), span, 2, heads, -1)
            k, v = kv[:, :, 0].transpose(1, 2), kv[:, :, 1].transpose(1, 2)
            mask = None
            if length > 1:  # a token sees its ancestors, and of its own chain what comes before it
                mask = torch.ones(length, span, dtype=torch.bool, device=x.device).tril(span - length)
            out = scaled_dot_product_attention(q, k, v, attn_mask=mask)
            mixed[nodes] = out.transpose(1, 2).reshape(len(nodes), length, width)
    for start in range(0, len(x), _ROWS):
        rows = x[start : start + _ROWS]
        rows += block.scale_1(linear(mixed[start : start + _ROWS], block.out_weight, block.out_bias))
    return x
