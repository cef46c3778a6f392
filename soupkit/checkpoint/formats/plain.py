"""Weights with nothing beside them that says what they are: a file, or a folder without a config."""

from soupkit.checkpoint.formats.folder import Folder
from soupkit.checkpoint.formats.repairs import repaired
from soupkit.checkpoint.formats.table import Description, Family, Tensors
from soupkit.checkpoint.formats.transformers_clip import under_open_clip_names
from soupkit.checkpoint.formats.weight_files import MODEL_OUTPUT


def describe(folder: Folder, tensors: Tensors) -> Description:
    """Return the tensors, a CLIP as transformers names it under open_clip's names."""
    renamed, notes = under_open_clip_names(tensors, folder)
    mended, repairs = repaired(renamed)
    return Description(mended, notes=(*notes, *repairs))


PLAIN = Family(
    name="plain",
    summary="weights alone; their shapes say which model they are, or --model does",
    recognises=lambda folder: True,
    describe=describe,
    companions=(),
    output=MODEL_OUTPUT,
)
