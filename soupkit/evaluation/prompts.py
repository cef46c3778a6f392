"""Prompts: class names put into templates, tokenised once, and each distinct one encoded once per model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from soupkit.errors import DataError
from soupkit.evaluation.adapter import CausalTextTower, Tokenizer, causal_text_tower
from soupkit.evaluation.prefix_tree import PrefixTree, build_tree, encode_tree

# Nodes of a prefix tree per prompt that is encoded together: with the number of prompts this bounds the memory,
# whatever the number of classes.
_TREE_NODES = 64
_TOLERANCE = 1e-4
_TOLERANCE_16_BITS = 0.1


@dataclass(frozen=True, slots=True)
class Prompts:
    """Tokenised texts: `tokens` [distinct, context] int32, and for every text the row that is its own [texts]."""

    tokens: Tensor
    rows: Tensor
    # The trees of these prompts on each device, made when they are first asked for.
    _trees: dict[tuple[torch.device, int], list[PrefixTree]] = field(default_factory=dict, compare=False)

    def trees(self, tower: CausalTextTower, device: torch.device, nodes: int) -> list[PrefixTree]:
        """Return the prefix trees of the distinct prompts, in their order, each of at most about `nodes` nodes."""
        key = (device, nodes)
        if key not in self._trees:
            self._trees.clear()
            self._trees[key] = [tree.to(device) for tree in plan_trees(tower, self.tokens, nodes)]
        return self._trees[key]


def fill_templates(classnames: Sequence[str], templates: Sequence[str], where: object) -> list[str]:
    """Return the prompts of all classes, class by class. Raises DataError for a template without a place for a name."""
    for template in templates:
        if "{c}" not in template:
            raise DataError(f"template {template!r} has no place for the class name", where, "write {c} where it goes")
    return [template.replace("{c}", name) for name in classnames for template in templates]


def tokenize(tokenizer: Tokenizer, texts: Sequence[str], batch: int = 4096) -> Prompts:
    """Tokenise `texts`, keeping one of each distinct row."""
    parts = [tokenizer(list(texts[i : i + batch])).to(torch.int32) for i in range(0, len(texts), batch)]
    tokens, rows = torch.cat(parts).unique(dim=0, return_inverse=True)
    return Prompts(tokens, rows)


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
            return self._prompts.tokens.numel()
        return sum(t.size for t in self._prompts.trees(tower, self._device, self._nodes))

    @torch.inference_mode()
    def _agrees(self, tower: CausalTextTower) -> bool:
        """Whether the tree gives what `encode_text` gives, on the shortest and the longest prompt.

        Which operations run does not depend on the prompts, and two that differ in length share a beginning and end
        at different positions: a tower that masks, pools or projects otherwise answers otherwise on both.
        """
        tokens = self._prompts.tokens
        ends = tower.end(tokens)
        few = tokens[torch.stack([ends.argmin(), ends.argmax()])].unique(dim=0)
        want = self._encode_text(few)
        got = torch.cat(
            [encode_tree(tower, tree.to(self._device)) for tree in plan_trees(tower, few, self._nodes)]
        ).float()
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
        tokens = self._prompts.tokens
        for start in range(0, len(tokens), self._batch):
            features = self._encode_text(tokens[start : start + self._batch])
            yield slice(start, start + len(features)), normalize(features, dim=-1)

    def _encode_text(self, tokens: Tensor) -> Tensor:
        return self._model.encode_text(tokens.to(self._device, torch.int64)).float()  # type: ignore[operator]

    @torch.inference_mode()
    def encode(self) -> Tensor:
        """Return the features of every text, float32 [texts, embed], of length one."""
        features = torch.cat([part for _, part in self.parts()])
        return features[self._prompts.rows.to(self._device)]


def plan_trees(tower: CausalTextTower, tokens: Tensor, limit: int) -> list[PrefixTree]:
    """Cut the prompts `tokens` [n, context] at their end-of-text token and put them into trees.

    A tree has at most `limit` nodes, or holds one prompt.
    """
    ends = tower.end(tokens)
    pairs = zip(tokens[:, : int(ends.max()) + 1].tolist(), ends.tolist(), strict=True)
    rows = [row[: end + 1] for row, end in pairs]
    trees: list[PrefixTree] = []
    run: list[list[int]] = []
    last: list[int] = []
    nodes = 0
    for row in rows:  # rows come sorted, so a row's new nodes are those after what it shares with the one before
        shared = next((i for i, (a, b) in enumerate(zip(row, last, strict=False)) if a != b), min(len(row), len(last)))
        if run and nodes + len(row) - shared > limit:
            trees.append(build_tree(run))
            run, nodes, shared = [], 0, 0
        run.append(row)
        nodes += len(row) - shared
        last = row
    return [*trees, build_tree(run)]
