"""What open_clip finds when it opens a folder's weights: they are held beside the model that it builds, with what it
mends while it loads left out of account."""

from typing import Any

from soupkit.checkpoint.expected import expected_shapes
from soupkit.checkpoint.formats.loading import Loading, Shape, Shapes, differing

_POSITIONS = ("positional_embedding", "text.positional_embedding", "visual.positional_embedding")
_MENDED = ("logit_bias", "text.transformer.embeddings.position_ids")  # new where it is not there; dropped


def loading(config: dict[str, Any], tensors: Shapes) -> Loading | str:
    """Return what open_clip finds in `tensors` with this `open_clip_config.json`; or why that is not known."""
    expected = expected_shapes(config)
    if expected is None:
        return "open_clip does not build the model without the network"
    own = {name: shape for name, (_, shape) in tensors.items()}
    if _POSITIONS[0] in own and _POSITIONS[0] not in expected:  # from before the text tower had a name of its own
        from open_clip.model import convert_to_custom_text_state_dict

        own = convert_to_custom_text_state_dict(own)
    found = differing("model", expected, own)
    return Loading(
        found.model,
        tuple(one for one in found.reshaped if not _is_resized(*one)),
        tuple(name for name in found.missing if name not in _MENDED),
        tuple(name for name in found.unexpected if name not in _MENDED),
    )


def _is_resized(name: str, wanted: Shape, own: Shape) -> bool:
    """Whether open_clip makes positions of another number from those that are there."""
    return name in _POSITIONS and len(wanted) == len(own) == 2 and wanted[1] == own[1]
