"""What diffusers finds when it opens a model's weights: they are held beside the model that it builds from the config.
No code of the folder's is run."""

import json
import re
from pathlib import Path
from typing import Any

from soupkit.checkpoint.formats.loading import Loading, Shapes, differing, empty, sorted_out
from soupkit.checkpoint.formats.weight_files import CONFIG
from soupkit.scratch import ScratchDirectory

_RENAMINGS = ("_fix_state_dict_keys_on_load", "_convert_deprecated_attention_blocks")  # of new and of old versions


def loading(config: dict[str, Any], tensors: Shapes) -> Loading | str:
    """Return what diffusers finds in `tensors` with this `config.json`; or why that is not known."""
    import diffusers
    import torch

    if config.get("quantization_config"):
        return "its weights are quantized"
    name = str(config.get("_class_name"))
    kind: Any = getattr(diffusers, name, None)
    is_model = isinstance(kind, type) and issubclass(kind, diffusers.ModelMixin)
    if not is_model:
        return f"diffusers has no model {name!r}"
    with ScratchDirectory() as directory, torch.device("meta"):
        Path(directory, CONFIG).write_text(json.dumps(config), "utf-8")
        model: Any = kind.from_config(kind.load_config(directory))
    state = empty(tensors)
    rename = next((getattr(model, name) for name in _RENAMINGS if hasattr(model, name)), None)
    if rename is not None:
        rename(state)
    ignored = model._keys_to_ignore_on_load_unexpected or ()
    parameters = {name for name, _ in model.named_parameters()}
    strict = differing(
        name,
        {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()},
        {key: tuple(t.shape) for key, t in state.items() if not any(re.search(pattern, key) for pattern in ignored)},
    )
    return sorted_out(name, parameters, strict.reshaped, strict.missing, strict.unexpected)
