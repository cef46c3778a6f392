"""Folders that transformers saves: weights, `config.json` with a `model_type`, and the preprocessor's config."""

from soupkit.checkpoint.formats.folder import Folder, read_object
from soupkit.checkpoint.formats.open_clip import check_config, tokenizer_files
from soupkit.checkpoint.formats.table import Description, Family, Tensors
from soupkit.checkpoint.formats.transformers_clip import convert_config, is_transformers_clip, under_open_clip_names
from soupkit.checkpoint.formats.weight_files import CONFIG, PREPROCESSOR_CONFIG, TOKENIZER_PATTERNS


def is_transformers(folder: Folder) -> bool:
    """Whether the folder's config names a model of transformers."""
    config = read_object(folder, CONFIG) or {}
    return any(config.get(key) for key in ("model_type", "architectures", "vision_config"))


def describe(folder: Folder, tensors: Tensors) -> Description:
    """Return a CLIP under open_clip's names with open_clip's config of it, any other model as it is.

    Raises CheckpointError for a CLIP that open_clip cannot express.
    """
    if not is_transformers_clip(tensors):
        return Description(tensors)
    renamed, notes = under_open_clip_names(tensors, folder)
    config = convert_config(
        read_object(folder, CONFIG) or {}, read_object(folder, PREPROCESSOR_CONFIG), folder.locate(CONFIG)
    )
    check_config(config, folder.locate(CONFIG))
    return Description(renamed, config, CONFIG, tokenizer_files(folder, config), notes)


TRANSFORMERS = Family(
    name="transformers",
    summary="a folder with config.json, as transformers saves it",
    recognises=is_transformers,
    describe=describe,
    companions=(CONFIG, PREPROCESSOR_CONFIG, *TOKENIZER_PATTERNS),
)
