"""Prompts: class names put into templates, tokenised once, and each distinct one encoded once per model.

ImageNet's 80,000 prompts are held in some 10 MB: their tokens without the padding, and the trees of their prefixes.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from soupkit.errors import DataError
from soupkit.evaluation.adapter import CausalTextTower, Tokenizer, causal_text_tower
from soupkit.evaluation.prefix_tree import PrefixTree, build_tree, encode_tree, shared_lengths

# Nodes of a prefix tree per prompt that is encoded together: with the number of prompts this bounds the memory,
# whatever the number of classes.
_TREE_NODES = 64
_BLOCK = 512  # prompts that are tokenised, or looked at, together
_TOLERANCE = 1e-4
_TOLERANCE_16_BITS = 0.1


@dataclass(frozen=True, slots=True)
class Prompts:
    """Tokenised texts: the distinct ones in the order of their tokens, and for every text the row that is its own.

    `stored` [distinct, used] are the tokens without most of their padding, of any unsigned dtype: the last one of a row
    stands for all from there to `context`, which are equal to it. `rows` is int64 [texts].
    """

    stored: np.ndarray
    rows: Tensor
    context: int
    # The trees of these prompts on each device, made when they are first asked for.
    _trees: dict[tuple[torch.device, int], list[PrefixTree]] = field(default_factory=dict, compare=False)

    def __len__(self) -> int:
        """Return how many are distinct."""
        return len(self.stored)

    def tokens(self, which: slice | Sequence[int] = slice(None)) -> Tensor:
        """Return the tokens of some of the distinct prompts as the tokenizer gave them, int64 [n, context]."""
        some = self.stored[which].astype(np.int64)
        return torch.from_numpy(np.pad(some, ((0, 0), (0, self.context - some.shape[1])), "edge"))

    def ends(self, tower: CausalTextTower) -> np.ndarray:
        """Return where each distinct prompt has the token that `tower` pools, int64 [distinct]."""
        blocks = (self.stored[i : i + _BLOCK] for i in range(0, len(self), _BLOCK))
        return np.concatenate([tower.end(torch.from_numpy(b.astype(np.int64))).numpy() for b in blocks])

    def trees(self, tower: CausalTextTower, device: torch.device, nodes: int) -> list[PrefixTree]:
        """Return the prefix trees of the distinct prompts, in their order, each of at most about `nodes` nodes."""
        key = (device, nodes)
        if key not in self._trees:
            self._trees.clear()
            self._trees[key] = [tree.to(device) for tree in plan_trees(self.stored, self.ends(tower), nodes)]
        return self._trees[key]


def fill_templates(classnames: Sequence[str], templates: Sequence[str], where: object) -> Iterator[str]:
    """Return the prompts of all classes, class by class. Raises DataError for a template without a place for a name."""
    for template in templates:
        if "{c}" not in template:
            raise DataError(f"has the template {template!r} without a class name", where, "write {c} where it goes")
    return (template.replace("{c}", name) for name in classnames for template in templates)


def tokenize(tokenizer: Tokenizer, texts: Iterable[str]) -> Prompts:
    """Tokenise `texts`, keeping one of each distinct row."""
    texts, context, parts = iter(texts), 0, []
    while block := list(islice(texts, _BLOCK)):
        rows = tokenizer(block).numpy()
        context = rows.shape[1]
        # One column of padding stays, for those that were cut.
        used = np.flatnonzero((rows != rows[0, -1]).any(axis=0))
        rows = rows[:, : min(int(used[-1]) + 2, context) if len(used) else 1]
        parts.append(rows.astype(np.uint16 if rows.max() < 1 << 16 else np.uint32))
    return Prompts(*_distinct(parts), context)


def _distinct(parts: list[np.ndarray]) -> tuple[np.ndarray, Tensor]:
    """Return the distinct rows of all `parts`, sorted, and for every row which of them it is."""
    widest = max(part.shape[1] for part in parts)
    dtype = np.result_type(*parts)
    # Big-endian, so that rows compare as their bytes do.
    joined = np.empty((sum(map(len, parts)), widest), dtype.newbyteorder(">"))
    done = 0
    while parts:
        part = parts.pop(0)
        here = joined[done : done + len(part)]
        here[:, : part.shape[1]] = part
        here[:, part.shape[1] :] = part[:, -1:]
        done += len(part)
    order = joined.view(np.dtype((np.void, joined.itemsize * widest)))[:, 0].argsort()
    joined = joined[order]
    first = np.ones(len(joined), bool)  # of those that are equal
    for start in range(1, len(joined), _BLOCK):
        stop = start + _BLOCK
        first[start:stop] = (joined[start:stop] != joined[start - 1 : stop - 1][: len(joined) - start]).any(axis=1)
    own = np.empty(len(joined), np.int64)
    own[order] = first.cumsum() - 1
    return joined[first].astype(dtype), torch.from_numpy(own)


class PromptEncoder:
    """Encodes one set of prompts with one live model, as often as its weights change.

    Over their prefix tree where that is what `encode_text` computes; else at full length, each distinct prompt once.
    """

    def __init__(
        self,
        model: nn.Module,
        prompts: Prompts,
        device: torch.device,
        batch: int = 256,
        uses_tree: bool | None = None,
    ) -> None:
        """`uses_tree` is what another encoder of the same model found out; None: two of the prompts tell."""
        self._model = model
        self._prompts = prompts
        self._device = device
        self._nodes = _TREE_NODES * batch
        self._batch = batch
        tower = causal_text_tower(model)
        self.uses_tree = tower is not None and (self._agrees(tower) if uses_tree is None else uses_tree)

    @property
    def prompts(self) -> Prompts:
        """What is encoded."""
        return self._prompts

    @property
    def tokens_computed(self) -> int:
        """Token positions that one encoding goes through."""
        tower = causal_text_tower(self._model) if self.uses_tree else None
        if tower is None:
            return len(self._prompts) * self._prompts.context
        return sum(t.size for t in self._prompts.trees(tower, self._device, self._nodes))

    @torch.inference_mode()
    def _agrees(self, tower: CausalTextTower) -> bool:
        """Whether the tree gives what `encode_text` gives, on the shortest and the longest prompt.

        Which operations run does not depend on the prompts, and two that differ in length share a beginning and end
        at different positions: a tower that masks, pools or projects otherwise answers otherwise on both.
        """
        ends = self._prompts.ends(tower)
        few = sorted({int(ends.argmin()), int(ends.argmax())})
        want = self._encode_text(few)
        trees = plan_trees(self._prompts.stored[few], ends[few], self._nodes)
        got = torch.cat([encode_tree(tower, tree.to(self._device)) for tree in trees]).float()
        # The two paths round differently, in 16 bits so much that only a wrong path would differ by more.
        wide = next(self._model.parameters()).dtype.itemsize >= 4
        tolerance = _TOLERANCE if wide else _TOLERANCE_16_BITS
        return bool((got - want).norm(dim=-1).le(tolerance * want.norm(dim=-1)).all())

    @torch.inference_mode()
    def parts(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield the distinct prompts' features part by part: which rows, and float32 [rows, embed] of length one.

        The model's weights are those of now.
        """
        tower = causal_text_tower(self._model) if self.uses_tree else None
        start = 0
        if tower is not None:
            for tree in self._prompts.trees(tower, self._device, self._nodes):
                features = encode_tree(tower, tree)
                yield slice(start, start + len(features)), normalize(features.float(), dim=-1)
                start += len(features)
            return
        for start in range(0, len(self._prompts), self._batch):
            features = self._encode_text(slice(start, start + self._batch))
            yield slice(start, start + len(features)), normalize(features, dim=-1)

    def _encode_text(self, which: slice | Sequence[int]) -> Tensor:
        return self._model.encode_text(self._prompts.tokens(which).to(self._device)).float()  # type: ignore[operator]

    @torch.inference_mode()
    def encode(self) -> Tensor:
        """Return the features of every text, float32 [texts, embed], of length one."""
        features = torch.cat([part for _, part in self.parts()])
        return features[self._prompts.rows.to(self._device)]


def plan_trees(tokens: np.ndarray, ends: np.ndarray, limit: int) -> list[PrefixTree]:
    """Cut the prompts `tokens` [n, width], sorted, at their last tokens `ends` [n] and put them into trees.

    A tree has at most `limit` nodes, or holds one prompt.
    """
    starts, nodes = [0], 0
    # A row's new nodes are those after what it shares with the one before.
    for row, (end, shared) in enumerate(zip(ends.tolist(), shared_lengths(tokens, ends).tolist(), strict=True)):
        if row > starts[-1] and nodes + end + 1 - shared > limit:
            starts.append(row)
            nodes, shared = 0, 0
        nodes += end + 1 - shared
    stops = [*starts[1:], len(tokens)]
    return [build_tree(tokens[i:j], ends[i:j]) for i, j in zip(starts, stops, strict=True)]
