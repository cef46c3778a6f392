"""A causal text tower over the tree of its prompts' prefixes: what two prompts begin with is computed once.

Prompts that differ after a common beginning share the features of that beginning, because no token sees the ones after
it; and nothing after the end-of-text token is ever computed. Nodes are numbered depth first, so what a run of nodes
attends to lies in the run itself or among the ancestors of its first node: attention is dense over short runs with
their ancestors before them, under a mask, and all else is one matrix product over all nodes.
"""

from collections.abc import Sequence
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


@dataclass(frozen=True, slots=True)
class PrefixTree:
    """The distinct prefixes of some prompts, depth first, padded to whole runs.

    `tokens` and `positions` [nodes] are int64; `ends` [prompts] is each prompt's last node; `seen` [runs, reach + run]
    are the nodes that a run looks at: the ancestors of its first node, by their depth, and its own; `mask`
    [runs, 1, run, reach + run] is true where a node attends to one of them, an ancestor or itself. `size` counts nodes
    without padding.
    """

    tokens: Tensor
    positions: Tensor
    ends: Tensor
    seen: Tensor
    mask: Tensor
    size: int

    def to(self, device: torch.device) -> "PrefixTree":
        """Return the same tree on `device`."""
        names = ("tokens", "positions", "ends", "seen", "mask")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


def build_tree(prompts: Sequence[Sequence[int]]) -> PrefixTree:
    """Build the tree of `prompts`, each the tokens up to and with its end-of-text token, in any order."""
    parents: list[int] = []
    tokens: list[int] = []
    depths: list[int] = []
    ends = [0] * len(prompts)
    path: list[int] = []  # the nodes of the prompt before
    for i in sorted(range(len(prompts)), key=lambda i: list(prompts[i])):
        prompt = prompts[i]
        known = next((d for d, node in enumerate(path) if d >= len(prompt) or tokens[node] != prompt[d]), len(path))
        del path[known:]
        for depth in range(known, len(prompt)):
            parents.append(path[-1] if path else -1)
            tokens.append(prompt[depth])
            depths.append(depth)
            path.append(len(tokens) - 1)
        ends[i] = path[-1]
    size = len(tokens)
    padding = [0] * (-size % _RUN)
    seen, mask = _attention(np.array(parents + [-1] * len(padding)), np.array(depths + padding))
    return PrefixTree(
        torch.tensor(tokens + padding), torch.tensor(depths + padding), torch.tensor(ends), seen, mask, size
    )


def _attention(parents: np.ndarray, depths: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return what the nodes attend to, as `PrefixTree` has it; `parents` is -1 where a node has none."""
    first = np.arange(0, len(parents), _RUN)
    reach = int(depths[first].max())
    before = np.zeros((len(first), reach), np.int64)
    runs, at = np.arange(len(first)), parents[first]
    while (there := at >= 0).any():
        runs, at = runs[there], at[there]
        before[runs, depths[at]] = at
        at = parents[at]
    mask = np.zeros((len(first), 1, _RUN, reach + _RUN), bool)
    nodes = at = np.arange(len(parents))
    while (there := at >= 0).any():  # one step up for all nodes at a time
        nodes, at = nodes[there], at[there]
        start = nodes // _RUN * _RUN
        mask[nodes // _RUN, 0, nodes % _RUN, np.where(at >= start, reach + at - start, depths[at])] = True
        at = parents[at]
    seen = np.concatenate([before, np.arange(len(parents)).reshape(-1, _RUN)], axis=1)
    return torch.from_numpy(seen), torch.from_numpy(mask)


def encode_tree(tower: CausalTextTower, tree: PrefixTree) -> Tensor:
    """Return the tower's features of every prompt of `tree`, [prompts, embed], not normalised."""
    x = tower.embed(tree.tokens, tree.positions)
    for number, block in enumerate(tower.blocks, 1):
        mixed = _attend(block, x, tree)
        if number == len(tower.blocks):  # what follows concerns each node alone, and only the last ones are wanted
            x, mixed = x[tree.ends], mixed[tree.ends]
        for start in range(0, len(x), _ROWS):
            rows = x[start : start + _ROWS]
            rows += block.scale_1(linear(mixed[start : start + _ROWS], block.out_weight, block.out_bias))
            rows += block.scale_2(block.mlp(block.norm_2(rows)))
    return tower.finish(x)


def _attend(block: Block, x: Tensor, tree: PrefixTree) -> Tensor:
    """Return the attention of `x` [nodes, width] over each node's ancestors and itself, before its projection."""
    nodes, width = x.shape
    kv = x.new_empty(nodes, 2 * width)
    mixed = torch.empty_like(x)
    for start in range(0, nodes, _ROWS):
        here = slice(start, start + _ROWS)
        qkv = linear(block.norm_1(x[here]), block.in_weight, block.in_bias)
        kv[here] = qkv[:, width:]
        runs = slice(start // _RUN, (start + len(qkv)) // _RUN)
        seen = tree.seen[runs]  # ancestors come earlier, so theirs are known by now
        k, v = kv.index_select(0, seen.flatten()).view(*seen.shape, 2, block.heads, -1).unbind(2)
        q = qkv[:, :width].unflatten(0, (-1, _RUN)).unflatten(-1, (block.heads, -1))
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        out = scaled_dot_product_attention(q, k, v, attn_mask=tree.mask[runs])
        mixed[here] = out.transpose(1, 2).reshape(len(qkv), width)
    return mixed
