"""SigLIP's tensors and configs as transformers has them and as open_clip has them, in both directions.

open_clip's image tower is timm's. Query, key and value are joined in its blocks and in the text tower; where images are
pooled, transformers joins them, and timm keeps the query apart from key and value.
"""

import re
from collections.abc import Mapping
from typing import Any

from soupkit.checkpoint.formats.table import Tensors
from soupkit.checkpoint.formats.tensor_views import joined, reshaped, rows_of
from soupkit.checkpoint.tensors import TensorSpec
from soupkit.errors import ArchitectureError, CheckpointError

_STEMS = {
    "text_model.embeddings.token_embedding": "text.token_embedding",
    "text_model.final_layer_norm": "text.ln_final",
    "text_model.head": "text.text_projection",
    "vision_model.embeddings.patch_embedding": "visual.trunk.patch_embed.proj",
    "vision_model.post_layernorm": "visual.trunk.norm",
    "vision_model.head.attention.out_proj": "visual.trunk.attn_pool.proj",
    "vision_model.head.layernorm": "visual.trunk.attn_pool.norm",
    "vision_model.head.mlp.fc1": "visual.trunk.attn_pool.mlp.fc1",
    "vision_model.head.mlp.fc2": "visual.trunk.attn_pool.mlp.fc2",
}
_WHOLE = {
    "text_model.embeddings.position_embedding.weight": "text.positional_embedding",
    "vision_model.embeddings.position_embedding.weight": "visual.trunk.pos_embed",
    "vision_model.head.probe": "visual.trunk.attn_pool.latent",
    "logit_scale": "logit_scale",
    "logit_bias": "logit_bias",
}
_PARTS = {
    "text": {
        "layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    },
    "vision": {
        "layer_norm1": "norm1", "layer_norm2": "norm2", "self_attn.out_proj": "attn.proj",
        "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
    },
}  # fmt: skip
_BLOCKS = {"text": "text.transformer.resblocks", "vision": "visual.trunk.blocks"}
_IN_PROJ = {"text": "attn.in_proj_{kind}", "vision": "attn.qkv.{kind}"}
_LAYER = re.compile(r"(text|vision)_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_QKV = {f"self_attn.{part}_proj": part for part in "qkv"}
_POOL = "vision_model.head.attention.in_proj_"
_OWN_STEMS = {theirs: own for own, theirs in _STEMS.items()}
_OWN_WHOLE = {theirs: own for own, theirs in _WHOLE.items()}
_STAYS = "keep it in open_clip's form: --to open_clip"
CONVERTED = "names converted from transformers' SiglipModel to open_clip's"


def is_transformers_siglip(tensors: Mapping[str, TensorSpec]) -> bool:
    """Whether the names are those of transformers' SiglipModel, with both towers."""
    return "vision_model.head.probe" in tensors and "text_model.head.weight" in tensors and "logit_bias" in tensors


def open_clip_name(name: str) -> str | None:
    """Return open_clip's name of the tensor that one of SiglipModel's is, or shares most with; None for others."""
    stem, _, kind = name.rpartition(".")
    if name in _WHOLE:
        return _WHOLE[name]
    if stem in _STEMS:
        return f"{_STEMS[stem]}.{kind}"
    if name.startswith(_POOL):
        return f"visual.trunk.attn_pool.kv.{name.removeprefix(_POOL)}"
    layer = _LAYER.fullmatch(name)
    if layer is None:
        return None
    tower, index, part, kind = layer.groups()
    if part in _QKV:
        return f"{_BLOCKS[tower]}.{index}.{_IN_PROJ[tower].format(kind=kind)}"
    return f"{_BLOCKS[tower]}.{index}.{_PARTS[tower][part]}.{kind}" if part in _PARTS[tower] else None


def convert_tensors(tensors: Mapping[str, TensorSpec], where: object) -> Tensors:
    """Return `tensors` under open_clip's names. Raises CheckpointError for a tensor that SiglipModel does not have."""
    converted: Tensors = {}
    in_projections: dict[str, Tensors] = {}
    for name, spec in tensors.items():
        target, about = open_clip_name(name), f"{where}, tensor {name!r}"
        if target is None:
            raise CheckpointError("is not a tensor of transformers' SiglipModel", about, "save the SiglipModel alone")
        layer = _LAYER.fullmatch(name)
        if layer and layer[3] in _QKV:
            in_projections.setdefault(target, {})[_QKV[layer[3]]] = spec
        elif name.startswith(_POOL):
            third = spec.shape[0] // 3
            converted[target.replace(".kv.", ".q.")] = rows_of(spec, 0, third, about)
            converted[target] = rows_of(spec, third, spec.shape[0], about)
        elif name in ("logit_scale", "logit_bias"):
            converted[target] = reshaped(spec, (), about)
        elif target == "visual.trunk.pos_embed":
            converted[target] = reshaped(spec, (1, *spec.shape), about)
        else:
            converted[target] = spec
    for target, parts in in_projections.items():
        if missing := [part for part in "qkv" if part not in parts]:
            raise CheckpointError(
                f"lacks the {missing[0]}_proj of its query, key and value", f"{where}, for {target!r}",
                "save the SiglipModel as transformers does, with save_pretrained",
            )  # fmt: skip
        converted[target] = joined([parts[part] for part in "qkv"], f"{where}, for {target!r}")
    return converted


def to_transformers(tensors: Mapping[str, TensorSpec], where: object) -> Tensors:
    """Return the tensors of an open_clip SigLIP under transformers' names, the inverse of `convert_tensors`.

    Raises CheckpointError for a tensor that SiglipModel does not have.
    """
    converted: Tensors = {}
    for name, spec in tensors.items():
        stem, _, kind = name.rpartition(".")
        about = f"{where}, tensor {name!r}"
        if name in ("logit_scale", "logit_bias"):
            converted[name] = reshaped(spec, (1,), about)
        elif name in _OWN_WHOLE:
            shape = spec.shape[1:] if name == "visual.trunk.pos_embed" else spec.shape
            converted[_OWN_WHOLE[name]] = reshaped(spec, shape, about)
        elif stem in _OWN_STEMS:
            converted[f"{_OWN_STEMS[stem]}.{kind}"] = spec
        elif stem == "visual.trunk.attn_pool.q":
            both = [spec, tensors[f"visual.trunk.attn_pool.kv.{kind}"]]
            converted[f"{_POOL}{kind}"] = joined(both, about)
        elif stem != "visual.trunk.attn_pool.kv":
            converted |= _layer_to_transformers(name, spec, about)
    return converted


def _layer_to_transformers(name: str, spec: TensorSpec, about: str) -> Tensors:
    """Return a tensor of a block under transformers' name, or the three that it joins."""
    for tower, blocks in _BLOCKS.items():
        if not name.startswith(f"{blocks}."):
            continue
        index, _, rest = name.removeprefix(f"{blocks}.").partition(".")
        layer = f"{tower}_model.encoder.layers.{index}"
        for kind in ("weight", "bias"):
            if rest == _IN_PROJ[tower].format(kind=kind):
                third = spec.shape[0] // 3
                return {
                    f"{layer}.{part}.{kind}": rows_of(spec, i * third, (i + 1) * third, about)
                    for i, part in enumerate(_QKV)
                }
            for own, theirs in _PARTS[tower].items():
                if rest == f"{theirs}.{kind}":
                    return {f"{layer}.{own}.{kind}": spec}
    raise CheckpointError("is not a tensor of a SigLIP that transformers builds", about, _STAYS)


def to_transformers_config(config: dict[str, Any], tensors: Tensors, where: object) -> dict[str, Any]:
    """Return transformers' `config.json` of an `open_clip_config.json`, whose model has `tensors` under its names.

    timm is asked for the heads and the activation of its image tower. Raises ArchitectureError for one that is no
    SigLIP's.
    """
    vision, text = config["model_cfg"]["vision_cfg"], config["model_cfg"]["text_cfg"]
    shapes = {name: spec.shape for name, spec in tensors.items()}
    heads, act, eps = _of_timm(vision.get("timm_model_name"), where)
    patch = shapes["visual.trunk.patch_embed.proj.weight"]
    text_act = "gelu_pytorch_tanh" if (text.get("act_kwargs") or {}).get("approximate") == "tanh" else "gelu"
    return {
        "architectures": ["SiglipModel"],
        "model_type": "siglip",
        "text_config": {
            "model_type": "siglip_text_model",
            "hidden_size": text["width"],
            "intermediate_size": shapes["text.transformer.resblocks.0.mlp.c_fc.weight"][0],
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
            "max_position_embeddings": text["context_length"],
            "vocab_size": text["vocab_size"],
            "projection_size": shapes["text.text_projection.weight"][0],
            "hidden_act": text_act,
            "layer_norm_eps": (text.get("norm_kwargs") or {}).get("eps", 1e-5),
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": patch[0],
            "intermediate_size": shapes["visual.trunk.blocks.0.mlp.fc1.weight"][0],
            "num_hidden_layers": 1 + max(int(n.split(".")[3]) for n in shapes if n.startswith("visual.trunk.blocks.")),
            "num_attention_heads": heads,
            "patch_size": patch[-1],
            "image_size": vision["image_size"],
            "hidden_act": act,
            "layer_norm_eps": eps,
        },
    }


def _of_timm(name: object, where: object) -> tuple[int, str, float]:
    """Return the number of heads, the activation and the epsilon of timm's model `name`."""
    import timm
    import torch

    try:
        with torch.device("meta"):
            model: Any = timm.create_model(str(name), pretrained=False)
        block = model.blocks[0]
        exact = isinstance(block.mlp.act, torch.nn.GELU) and block.mlp.act.approximate == "none"
        return block.attn.num_heads, "gelu" if exact else "gelu_pytorch_tanh", block.norm1.eps
    except Exception as error:  # a name that timm does not know, or a tower of another kind
        raise ArchitectureError(
            f"has the image tower {name}, which is no SigLIP's: {type(error).__name__}", where, _STAYS
        ) from error
