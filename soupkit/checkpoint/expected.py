"""The tensors that open_clip's model of a config has. It takes the seconds that importing open_clip takes, and is asked
only to say what is wrong with a checkpoint."""

import json
import logging
from pathlib import Path
from typing import Any

from soupkit.checkpoint.formats.weight_files import OPEN_CLIP_CONFIG
from soupkit.scratch import ScratchDirectory


def expected_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]] | None:
    """Return the names and shapes of the tensors of an `open_clip_config.json`'s model; None where it cannot be built,
    or not without the network."""
    import open_clip
    import torch

    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # that it has no weights yet
    try:
        with ScratchDirectory() as directory, torch.device("meta"):
            (Path(directory) / OPEN_CLIP_CONFIG).write_text(json.dumps(config))
            model = open_clip.create_model(
                f"local-dir:{directory}", load_weights=False, pretrained_hf=False, device="meta"
            )
    except Exception:  # whatever a stranger's config leads to; this only adds to an error that is there already
        return None
    finally:
        logging.disable(level)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
