"""Small models of the kinds that differ in their text towers, image towers and tokenizers, as open_clip directories."""

import json
from pathlib import Path
from typing import Any

import torch

from tests.conftest import PREPROCESS, save

VIT: dict[str, Any] = {"image_size": 16, "layers": 2, "width": 32, "head_width": 16, "patch_size": 4}
TEXT: dict[str, Any] = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}

MODELS: dict[str, dict[str, Any]] = {
    "resnet": {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
        "text_cfg": TEXT,
    },
    "non_causal": {
        "embed_dim": 32,
        "custom_text": True,
        "vision_cfg": VIT,
        "text_cfg": {**TEXT, "no_causal_mask": True, "pool_type": "last"},
    },
    "own_tokenizer": {
        "embed_dim": 32,
        "custom_text": True,
        "vision_cfg": VIT,
        "text_cfg": {**TEXT, "vocab_size": 256, "hf_tokenizer_name": "somewhere/tiny", "pool_type": "last",
                     "no_causal_mask": True, "tokenizer_kwargs": {"strip_sep_token": False}},
    },
    "siglip": {
        "embed_dim": 32,
        "custom_text": True,
        "init_logit_bias": -10,
        "init_logit_scale": 2.3,
        "vision_cfg": {**VIT, "attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 2,
                       "pos_embed_type": "sin_cos_2d"},
        "text_cfg": {**TEXT, "no_causal_mask": True, "pool_type": "last", "proj_bias": True},
    },
}  # fmt: skip


def write_tokenizer(directory: Path, words: list[str]) -> None:
    """Write a word-level tokenizer in transformers' format."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[SEP]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", sep_token="[SEP]"
    ).save_pretrained(directory)


def write_model(directory: Path, kind: str, seed: int = 1) -> Path:
    """Write a model of `kind` with random weights, so large that images differ and fall into several classes."""
    import open_clip

    config = {
        "model_cfg": MODELS[kind],
        "preprocess_cfg": {**PREPROCESS, "size": MODELS[kind]["vision_cfg"]["image_size"]},
    }
    place = directory / "config"
    place.mkdir(parents=True)
    (place / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(seed)
    model = open_clip.create_model(f"local-dir:{place}", load_weights=False)
    state = {k: v + 0.2 * torch.randn_like(v) if v.is_floating_point() else v for k, v in model.state_dict().items()}
    state = {k: v.abs() if k.endswith("running_var") else v.contiguous() for k, v in state.items()}
    path = save(directory / "model", state, config)
    if kind == "own_tokenizer":
        words = "a an image photo of the digit number zero one two three four five six seven eight nine handwritten"
        write_tokenizer(path, words.split())
    return path
