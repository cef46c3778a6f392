"""What transformers finds when it opens a folder's weights: its own `from_pretrained`, on tensors without content.

So whatever it repairs, ties, renames, joins or leaves out while it loads is known as in the version that is installed.
No code of the folder's is run.
"""

import json
from pathlib import Path
from typing import Any

from soupkit.checkpoint.formats.loading import Loading, Shapes, empty, sorted_out
from soupkit.checkpoint.formats.weight_files import CONFIG
from soupkit.scratch import ScratchDirectory

_QUANTIZED = "its weights are quantized"


def loading(config: dict[str, Any], tensors: Shapes) -> Loading | str:
    """Return what transformers finds in `tensors` with this `config.json`; or why that is not known."""
    if config.get("quantization_config"):
        return _QUANTIZED
    kind = _class_of(config)
    if kind is None:
        named = config.get("architectures") or config.get("model_type")
        return f"transformers has no class {named}"
    with ScratchDirectory() as directory:
        Path(directory, CONFIG).write_text(json.dumps(config), "utf-8")
        built = kind.config_class.from_pretrained(directory)
    model, found = _open(kind, built, empty(tensors))
    prefix = model.base_model_prefix
    inner = bool(prefix) and hasattr(model, prefix)
    return sorted_out(
        kind.__name__,
        {name for name, _ in model.named_parameters()},
        [(name, tuple(wanted), tuple(own)) for name, own, wanted in found["mismatched_keys"]],
        found["missing_keys"],
        found["unexpected_keys"],
        core=f"{prefix}." if inner else "",
    )


def _class_of(config: dict[str, Any]) -> Any:
    """Return transformers' class of a config: the first that it names, or the model without a head of its type."""
    import transformers

    named = config.get("architectures")
    for name in named if isinstance(named, list) else ():
        kind = getattr(transformers, name, None) if isinstance(name, str) else None
        if isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel) and kind.config_class is not None:
            return kind
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in transformers.CONFIG_MAPPING or config.get("auto_map"):
        return None
    return transformers.MODEL_MAPPING.get(transformers.CONFIG_MAPPING[kind], None)


def _open(kind: Any, config: Any, state: dict[str, Any]) -> Any:
    """Return the model, without content, and the lists of what did not fit."""
    return kind.from_pretrained(
        None,
        config=config,
        state_dict=state,
        device_map={"": "meta"},
        attn_implementation="eager",  # others ask for packages, or for code from the Hub
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
