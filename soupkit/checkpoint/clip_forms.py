"""The two forms in which a CLIP is written, open_clip's and transformers'. Nothing is copied to go between them."""

from dataclasses import replace

from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.formats.transformers_clip import open_clip_name, to_transformers

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
    tensors = to_transformers(checkpoint.tensors, checkpoint.ref)
    return replace(checkpoint, tensors=tensors, clip_names={name: open_clip_name(name) or name for name in tensors})
