"""What a transformers-like config says in so many words, held against the tensors: where the model's library is not
here, or has no class for it. It refuses only what no model of that config can have."""

import re
from typing import Any

from soupkit.checkpoint.formats.loading import Loading, Shapes

_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_WIDTHS = ("hidden_size", "n_embd", "d_model", "dim")
_EMBEDDINGS = re.compile(r"(?:^|\.)(?:embed_tokens|wte|word_embeddings|tok_embeddings)\.weight$")
_OTHER_WIDTHS = ("embedding_size", "word_embed_proj_dim", "embed_dim", "embedding_dim")  # of factorized embeddings
_NUMBERED = re.compile(r"^((?:.*\.)??(?:layers?|h|blocks?))\.(\d+)\.")


def loading(config: dict[str, Any], tensors: Shapes) -> Loading:
    """Return in what the tensors cannot be those of `config`: fewer layers than it counts, where they have one stack of
    them; embeddings of another width, or of fewer tokens."""
    name = str(config.get("model_type") or "model")
    return Loading(name, _reshaped(config, tensors), _missing(config, tensors))


def _missing(config: dict[str, Any], tensors: Shapes) -> tuple[str, ...]:
    count = _number(config, _LAYERS)
    stacks: dict[str, set[int]] = {}
    names: dict[tuple[str, int], list[str]] = {}
    for tensor in tensors:
        if (match := _NUMBERED.match(tensor)) is not None:
            stacks.setdefault(match[1], set()).add(int(match[2]))
            names.setdefault((match[1], int(match[2])), []).append(tensor)
    if count is None or len(stacks) != 1:
        return ()
    ((stack, present),) = stacks.items()
    first = [name[len(f"{stack}.0.") :] for name in names.get((stack, 0), ())]
    absent = range(len(present), count) if present == set(range(len(present))) else ()
    # no more than are shown and counted: a count may be any number
    return tuple(f"{stack}.{i}.{rest}" for i in list(absent)[:99] for rest in first)


def _reshaped(config: dict[str, Any], tensors: Shapes) -> tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]:
    width, tokens = _number(config, _WIDTHS), _number(config, ("vocab_size",))
    if width is None or any(key in config for key in _OTHER_WIDTHS):
        return ()
    wrong = []
    for name, (_, shape) in tensors.items():
        if _EMBEDDINGS.search(name) is None or len(shape) != 2:
            continue
        if shape[1] != width or (tokens is not None and shape[0] < tokens):
            wrong.append((name, (tokens if tokens is not None else shape[0], width), shape))
    return tuple(wrong)


def _number(config: dict[str, Any], keys: tuple[str, ...]) -> int | None:
    values = [config[key] for key in keys if key in config]
    return values[0] if len(values) == 1 and type(values[0]) is int and values[0] > 0 else None
