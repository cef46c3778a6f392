"""What open_clip mends while it loads weights, done here too: a soup is then of the tensors that its model has."""

from dataclasses import replace

from soupkit.checkpoint.formats.table import Tensors

_SCALARS = ("logit_scale", "logit_bias")
# A buffer of text towers that transformers wrote until 4.31.
_POSITION_IDS = "text.transformer.embeddings.position_ids"


def repaired(tensors: Tensors) -> tuple[Tensors, tuple[str, ...]]:
    """Return the tensors of a CLIP as open_clip would load them, and a note for each that was changed; others as they
    are."""
    if not any(name.startswith("visual.") for name in tensors):
        return tensors, ()
    notes = []
    mended = dict(tensors)
    for name in _SCALARS:
        if name in mended and mended[name].shape == (1,):
            mended[name] = replace(mended[name], shape=(), strides=None)
            notes.append(f"{name} is a list of one number, as FSDP needs it; taken as the number")
    if mended.pop(_POSITION_IDS, None) is not None:
        notes.append(f"{_POSITION_IDS} left out: it counts positions, and no version of today has it")
    return mended, tuple(notes)
