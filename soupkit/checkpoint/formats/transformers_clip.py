"""CLIP's tensors as transformers has them and as open_clip has them, by one table in both directions.

transformers keeps query, key and value apart and projections as Linear layers; open_clip joins the first and stores
the second transposed. Nothing is copied: a joined tensor is three extents, a transposed one has strides.
"""

import re
from collections.abc import Mapping

from soupkit.checkpoint.formats.table import Tensors
from soupkit.checkpoint.formats.tensor_views import joined, rows_of, transposed
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
_OWN_NAMES = {theirs: own for own, theirs in _NAMES.items()}
_OWN_NORMS = {theirs: own for own, theirs in _NORMS.items()}
_OWN_PARTS = {theirs: own for own, theirs in _BLOCK_PARTS.items()}
_OWN_TOWERS = {"": "text_model.encoder.layers", "visual.": "vision_model.encoder.layers"}
_RESBLOCK = re.compile(r"(|visual\.)transformer\.resblocks\.(\d+)\.(.+)\.(\w+)")
_PARTS_OF_IN_PROJ = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_PART_OF_IN_PROJ = re.compile(r"\.self_attn\.([qkv])_proj\.")
_IGNORED = (".position_ids",)


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
    in_projections: dict[str, Tensors] = {}
    for name, spec in tensors.items():
        if name.endswith(_IGNORED):
            continue
        target = open_clip_name(name)
        if target is None:
            raise CheckpointError(
                "is not a tensor of transformers' CLIPModel", f"{where}, tensor {name!r}", "save the CLIPModel alone"
            )
        if part := _PART_OF_IN_PROJ.search(name):
            in_projections.setdefault(target, {})[part[1]] = spec
        else:
            converted[target] = transposed(spec, f"{where}, tensor {name!r}") if name in _TRANSPOSED else spec
    for target, parts in in_projections.items():
        if missing := [part for part in "qkv" if part not in parts]:
            raise CheckpointError(
                f"lacks the {missing[0]}_proj of its query, key and value", f"{where}, for {target!r}",
                "save the CLIPModel as transformers does, with save_pretrained",
            )  # fmt: skip
        converted[target] = joined([parts[part] for part in "qkv"], f"{where}, for {target!r}")
    return converted


def to_transformers(tensors: Mapping[str, TensorSpec], where: object) -> Tensors:
    """Return the tensors of an open_clip CLIP under transformers' names, the inverse of `convert_tensors`.

    Raises CheckpointError for a tensor that CLIPModel does not have.
    """
    converted: Tensors = {}
    for name, spec in tensors.items():
        stem, _, kind = name.rpartition(".")
        block = _RESBLOCK.fullmatch(name)
        if name in _OWN_NAMES:
            own = _OWN_NAMES[name]
            converted[own] = transposed(spec, f"{where}, tensor {name!r}") if own in _TRANSPOSED else spec
        elif stem in _OWN_NORMS:
            converted[f"{_OWN_NORMS[stem]}.{kind}"] = spec
        elif block and block[3] in _OWN_PARTS:
            converted[f"{_OWN_TOWERS[block[1]]}.{block[2]}.{_OWN_PARTS[block[3]]}.{block[4]}"] = spec
        elif block and block[3] == "attn" and block[4].startswith("in_proj_"):
            layer = f"{_OWN_TOWERS[block[1]]}.{block[2]}"
            third = spec.shape[0] // 3
            for i, part in enumerate(_PARTS_OF_IN_PROJ):
                rows = rows_of(spec, i * third, (i + 1) * third, f"{where}, tensor {name!r}")
                converted[f"{layer}.{part}.{block[4].removeprefix('in_proj_')}"] = rows
        else:
            raise CheckpointError(
                "is not a tensor of a CLIP that transformers builds",
                f"{where}, tensor {name!r}",
                "keep it in open_clip's form: --to open_clip",
            )
    return converted
