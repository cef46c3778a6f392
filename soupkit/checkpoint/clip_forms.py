"""The two forms in which a CLIP is written, open_clip's and transformers'. Nothing is copied to go between them."""

from dataclasses import replace
from typing import Any

from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.formats import transformers_clip as clip
from soupkit.checkpoint.formats import transformers_siglip as siglip
from soupkit.checkpoint.formats.transformers_clip_config import to_preprocessor, to_transformers_configs
from soupkit.checkpoint.formats.weight_files import CONFIG, PREPROCESSOR_CONFIG

OPEN_CLIP, TRANSFORMERS = "open_clip", "transformers"
FORMS = (OPEN_CLIP, TRANSFORMERS)


def in_form(checkpoint: Checkpoint, family: str) -> Checkpoint:
    """Return `checkpoint` with the tensors that a soup of `family` has: its own where that is its family, a CLIP's in
    the other form otherwise.

    Raises CheckpointError for a tensor that the other library's model does not have.
    """
    if family == OPEN_CLIP or (checkpoint.own is None and family != TRANSFORMERS):
        return checkpoint
    if checkpoint.family == family or family != TRANSFORMERS:
        return checkpoint.as_written
    kind = siglip if _is_siglip(checkpoint) else clip
    tensors = kind.to_transformers(checkpoint.tensors, checkpoint.ref)
    names = {name: kind.open_clip_name(name) or name for name in tensors}
    return replace(checkpoint, tensors=tensors, clip_names=names)


def transformers_configs(checkpoint: Checkpoint, config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the configs, by their files' names, that transformers has for a CLIP or SigLIP of an
    `open_clip_config.json`; `checkpoint` is in open_clip's form.

    Raises ArchitectureError for a model or preprocessing that transformers cannot express.
    """
    if not _is_siglip(checkpoint):
        return to_transformers_configs(config, checkpoint.ref)
    size = config["model_cfg"]["vision_cfg"]["image_size"]
    preprocess = config.get("preprocess_cfg") or {}
    return {
        CONFIG: siglip.to_transformers_config(config, checkpoint.tensors, checkpoint.ref),
        PREPROCESSOR_CONFIG: to_preprocessor(preprocess, size, checkpoint.ref, "SiglipImageProcessor"),
    }


def _is_siglip(checkpoint: Checkpoint) -> bool:
    return "visual.trunk.attn_pool.latent" in checkpoint.tensors
