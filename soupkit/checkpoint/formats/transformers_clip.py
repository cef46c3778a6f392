"""CLIP as transformers stores it: its tensors under open_clip's names, and its config as open_clip's.

transformers keeps query, key and value apart and projections as Linear layers; open_clip joins the first and stores
the second transposed. Nothing is copied: a joined tensor is three extents, a transposed one has strides.
"""

import re
from collections.abc import Mapping
from math import prod
from typing import Any

from soupkit.checkpoint.formats.table import Tensors
from soupkit.checkpoint.tensors import TensorSpec
from soupkit.errors import CheckpointError

_NAMES = {
    "logit_scale": "logit_scale",
    "text_projection.weight": "text_projection",
    "visual_projection.weight": "visual.proj",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
}
_NORMS = {
    "text_model.final_layer_norm": "ln_final",
    "vision_model.pre_layrnorm": "visual.ln_pre",
    "vision_model.post_layernorm": "visual.ln_post",
}
_BLOCK_PARTS = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_BLOCK = re.compile(r"(text|vision)_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_TOWERS = {"text": "transformer.resblocks", "vision": "visual.transformer.resblocks"}
_TRANSPOSED = ("text_projection.weight", "visual_projection.weight")
_PARTS_OF_IN_PROJ = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_PART_OF_IN_PROJ = re.compile(r"\.self_attn\.([qkv])_proj\.")
_IGNORED = (".position_ids",)
_INEXPRESSIBLE = "open_clip cannot build this model; choose ingredients that are CLIPs as OpenAI's"


def is_transformers_clip(tensors: Mapping[str, TensorSpec]) -> bool:
    """Whether the names are those of transformers' CLIPModel."""
    return "vision_model.embeddings.class_embedding" in tensors and "text_projection.weight" in tensors


CONVERTED = "names converted from transformers' CLIPModel to open_clip's"


def under_open_clip_names(tensors: Tensors, where: object) -> tuple[Tensors, tuple[str, ...]]:
    """Return a CLIP of transformers under open_clip's names, and a note that says so; other tensors as they are.

    Raises CheckpointError as `convert_tensors` does.
    """
    if not is_transformers_clip(tensors):
        return tensors, ()
    return convert_tensors(tensors, where), (CONVERTED,)


def open_clip_name(name: str) -> str | None:
    """Return open_clip's name of the tensor that one of CLIPModel's is, or is a part of; None for one that is no
    weight, or not CLIPModel's."""
    block = _BLOCK.fullmatch(name)
    stem, _, kind = name.rpartition(".")
    if name in _NAMES:
        return _NAMES[name]
    if stem in _NORMS:
        return f"{_NORMS[stem]}.{kind}"
    if block is None:
        return None
    resblock = f"{_TOWERS[block[1]]}.{block[2]}"
    if block[3] in _BLOCK_PARTS:
        return f"{resblock}.{_BLOCK_PARTS[block[3]]}.{kind}"
    return f"{resblock}.attn.in_proj_{kind}" if block[3] in _PARTS_OF_IN_PROJ else None


def convert_tensors(tensors: Mapping[str, TensorSpec], where: object) -> Tensors:
    """Return `tensors` under open_clip's names. Raises CheckpointError for a tensor that CLIPModel does not have."""
    converted: Tensors = {}
    joined: dict[str, Tensors] = {}
    for name, spec in tensors.items():
        if name.endswith(_IGNORED):
            continue
        target = open_clip_name(name)
        if target is None:
            raise CheckpointError(
                "is not a tensor of transformers' CLIPModel", f"{where}, tensor {name!r}", "save the CLIPModel alone"
            )
        if part := _PART_OF_IN_PROJ.search(name):
            joined.setdefault(target, {})[part[1]] = spec
        else:
            converted[target] = _transposed(spec, where, name) if name in _TRANSPOSED else spec
    for target, parts in joined.items():
        converted[target] = _join(parts, where, target)
    return converted


def _transposed(spec: TensorSpec, where: object, name: str) -> TensorSpec:
    if len(spec.shape) != 2 or spec.strides is not None:
        raise CheckpointError("is not stored as a plain matrix", f"{where}, tensor {name!r}", "save it contiguous")
    rows, columns = spec.shape
    return TensorSpec(spec.dtype, (columns, rows), spec.extents, (1, columns))


def _join(parts: Tensors, where: object, target: str) -> TensorSpec:
    """Put query, key and value after one another."""
    if set(parts) != set("qkv") or len({(p.dtype, p.shape) for p in parts.values()}) != 1:
        raise CheckpointError(
            "lacks one of query, key and value, or they differ in shape", f"{where}, for {target!r}",
            "save the CLIPModel as transformers does, with save_pretrained",
        )  # fmt: skip
    if any(p.strides is not None for p in parts.values()):
        raise CheckpointError("is not stored contiguous", f"{where}, for {target!r}", "save it contiguous")
    rows, *rest = parts["q"].shape
    extents = tuple(extent for key in "qkv" for extent in parts[key].extents)
    assert prod((3 * rows, *rest)) == 3 * parts["q"].numel
    return TensorSpec(parts["q"].dtype, (3 * rows, *rest), extents)


def convert_config(config: dict[str, Any], preprocessor: dict[str, Any] | None, where: str) -> dict[str, Any]:
    """Return open_clip's config of a transformers CLIP `config.json` and `preprocessor_config.json`.

    Values that open_clip takes for granted are left out, so that a config can be recognised as one of its own. Raises
    CheckpointError for what open_clip's CLIP cannot express.
    """
    text, vision = config.get("text_config") or {}, config.get("vision_config") or {}
    activations = {text.get("hidden_act", "quick_gelu"), vision.get("hidden_act", "quick_gelu")}
    if len(activations) != 1 or not activations <= {"quick_gelu", "gelu"}:
        raise CheckpointError(
            f"has activations that open_clip's CLIP lacks: {', '.join(sorted(activations))}", where, _INEXPRESSIBLE
        )
    if {text.get("layer_norm_eps", 1e-5), vision.get("layer_norm_eps", 1e-5)} != {1e-5}:
        raise CheckpointError("has a layer_norm_eps other than open_clip's 1e-5", where, _INEXPRESSIBLE)
    width, heads = vision.get("hidden_size", 768), vision.get("num_attention_heads", 12)
    vision_cfg = {
        "image_size": vision.get("image_size", 224),
        "layers": vision.get("num_hidden_layers", 12),
        "width": width,
        **({"head_width": width // heads} if width // heads != 64 else {}),
        **_mlp_ratio(vision.get("intermediate_size", 3072), width),
        "patch_size": vision.get("patch_size", 32),
    }
    text_width = text.get("hidden_size", 512)
    text_cfg = {
        "context_length": text.get("max_position_embeddings", 77),
        "vocab_size": text.get("vocab_size", 49408),
        "width": text_width,
        "heads": text.get("num_attention_heads", 8),
        "layers": text.get("num_hidden_layers", 12),
        **_mlp_ratio(text.get("intermediate_size", 2048), text_width),
    }
    model_cfg = {
        "embed_dim": config.get("projection_dim", 512),
        **({"quick_gelu": True} if activations == {"quick_gelu"} else {}),
        "vision_cfg": vision_cfg,
        "text_cfg": text_cfg,
    }
    return {"model_cfg": model_cfg, "preprocess_cfg": _preprocess(preprocessor or {}, vision_cfg["image_size"])}


def _mlp_ratio(hidden: int, width: int) -> dict[str, float]:
    return {} if hidden == 4 * width else {"mlp_ratio": hidden / width}


def _preprocess(preprocessor: dict[str, Any], image_size: int) -> dict[str, Any]:
    crop = preprocessor.get("crop_size", image_size)
    size = crop.get("height", image_size) if isinstance(crop, dict) else crop
    return {
        "size": size,
        "mode": "RGB",
        "mean": preprocessor.get("image_mean", [0.48145466, 0.4578275, 0.40821073]),
        "std": preprocessor.get("image_std", [0.26862954, 0.26130258, 0.27577711]),
        "interpolation": {2: "bilinear", 3: "bicubic"}.get(preprocessor.get("resample", 3), "bicubic"),
        "resize_mode": "shortest",
        "fill_color": 0,
    }
