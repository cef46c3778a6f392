"""Which tower a tensor belongs to, and how deep it lies in it, by the name that open_clip gives it."""

import re
from collections.abc import Iterable, Sequence

CLASSIFICATION_HEAD = "classification_head.weight"  # beside a CLIP under `model.`, as model-soups names them
_WRAPPED = "model."
_LAYER = re.compile(r"\.(?:resblocks|layers?|blocks|stages)\.(\d+)\.|\blayer(\d)\.")
_BEFORE_BLOCKS = frozenset({
    "conv1", "conv2", "conv3", "bn1", "bn2", "bn3", "class_embedding", "positional_embedding", "token_embedding",
    "embeddings", "patch_embed", "pos_embed", "cls_token", "cls_emb", "ln_pre",
})  # fmt: skip


def is_image(name: str) -> bool:
    """Whether a tensor belongs to the image tower of a CLIP, by open_clip's name of it or transformers'."""
    return name.startswith(("visual.", "vision_model.", "visual_projection."))


def is_text(name: str) -> bool:
    """Whether a tensor belongs to the text tower. Logit scale and bias belong to neither."""
    return not is_image(name) and name not in ("logit_scale", "logit_bias")


def depths(names: Sequence[str]) -> dict[str, float]:
    """Return each tensor's depth in its own tower: 0 before the first block, 1 after the last, layers in between."""
    last: dict[bool, int] = {True: 0, False: 0}
    layer = {name: _layer(name) for name in names}
    for name, index in layer.items():
        if index is not None:
            last[is_image(name)] = max(last[is_image(name)], index)

    def depth(name: str) -> float:
        index = layer[name]
        if index is not None:
            return index / last[is_image(name)] if last[is_image(name)] else 0.0
        part = (
            name.removeprefix(_WRAPPED)
            .removeprefix("visual.")
            .removeprefix("text.")
            .removeprefix("trunk.")
            .split(".")[0]
        )
        return 0.0 if part in _BEFORE_BLOCKS else 1.0

    return {name: depth(name) for name in names}


def has_head(names: Iterable[str]) -> bool:
    """Whether tensors are those of a CLIP's image tower with a classification head, in the form of model-soups."""
    return any(name.endswith(CLASSIFICATION_HEAD) for name in names)


def is_in_block(name: str) -> bool:
    """Whether a tensor belongs to one of its tower's blocks."""
    return _layer(name) is not None


def block_patterns(names: Sequence[str]) -> tuple[str, ...]:
    """Return a pattern for the tensors of each block of each tower, in the order of `names`, and `*` for the others."""
    found = [block_of(name) for name in names]
    return (*(f"{block}*" for block in dict.fromkeys(found) if block is not None), *(["*"] if None in found else []))


def block_of(name: str) -> str | None:
    """Return what the names of all tensors of a tensor's block begin with; None for one that is in no block."""
    match = _LAYER.search(f".{name}")
    return name[: match.end() - 1] if match else None


def blocks(names: Sequence[str]) -> int:
    """Return how many blocks the deepest tower has that these tensors are of."""
    return max((index + 1 for index in map(_layer, names) if index is not None), default=0)


def _layer(name: str) -> int | None:
    match = _LAYER.search(name)
    return int(match[1] or match[2]) if match else None
