"""open_clip's own folders: weights, `open_clip_config.json`, and the files of the tokenizer where it needs any."""

from typing import Any

from soupkit.checkpoint.formats.folder import Folder, matching, read_object
from soupkit.checkpoint.formats.open_clip_loading import loading
from soupkit.checkpoint.formats.repairs import repaired
from soupkit.checkpoint.formats.table import Description, Family, Tensors
from soupkit.checkpoint.formats.transformers_clip import under_open_clip_names
from soupkit.checkpoint.formats.weight_files import OPEN_CLIP_CONFIG, TOKENIZER_PATTERNS
from soupkit.errors import CheckpointError

COMPANIONS = (OPEN_CLIP_CONFIG, *TOKENIZER_PATTERNS)


def is_open_clip(folder: Folder) -> bool:
    """Whether open_clip's config is in the folder."""
    return OPEN_CLIP_CONFIG in folder.names


def describe(folder: Folder, tensors: Tensors) -> Description:
    """Return the config, and the files of the tokenizer. Raises CheckpointError for a config that is none."""
    config = read_object(folder, OPEN_CLIP_CONFIG)
    assert config is not None
    check_config(config, folder.locate(OPEN_CLIP_CONFIG))
    renamed, notes = under_open_clip_names(tensors, folder)
    mended, repairs = repaired(renamed)
    return Description(mended, config, OPEN_CLIP_CONFIG, tokenizer_files(folder, config), (*notes, *repairs))


def check_config(config: dict[str, Any], where: str) -> None:
    """Raise CheckpointError, about `where`, unless `config` has the sections that open_clip reads."""
    model_cfg = config.get("model_cfg")
    sections = (
        [model_cfg, *(model_cfg.get(k) for k in ("vision_cfg", "text_cfg"))] if isinstance(model_cfg, dict) else []
    )
    if not sections or not all(isinstance(s, dict) for s in sections):
        raise CheckpointError("has no model_cfg with vision_cfg and text_cfg", where, "open_clip writes it so")
    if not isinstance(config.get("preprocess_cfg", {}), dict):
        hint = 'open_clip writes {"size": 224, "mean": [...], "std": [...], ...} there'
        raise CheckpointError("has a preprocess_cfg that is no object", where, hint)


def tokenizer_files(folder: Folder, config: dict[str, Any] | None) -> tuple[str, ...]:
    """Return the files that the model's tokenizer is made of; open_clip's own tokenizer needs none."""
    if config is None or not config["model_cfg"]["text_cfg"].get("hf_tokenizer_name"):
        return ()
    return matching(folder.names, TOKENIZER_PATTERNS)


OPEN_CLIP = Family(
    name="open_clip",
    summary="a folder with open_clip_config.json, as open_clip pushes it to the Hub",
    recognises=is_open_clip,
    describe=describe,
    companions=COMPANIONS,
    library="open_clip",
    loading=loading,
)
