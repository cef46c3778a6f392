"""What timm finds when it opens a folder's weights: its own `create_model`, on tensors without content.

So whatever it renames or leaves out while it loads is known as in the version that is installed.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from soupkit.checkpoint.formats.loading import Loading, Shape, Shapes, differing, empty, sorted_out
from soupkit.checkpoint.formats.weight_files import CONFIG
from soupkit.scratch import ScratchDirectory


def loading(config: dict[str, Any], tensors: Shapes) -> Loading | str:
    """Return what timm finds in `tensors` with this `config.json`; or why that is not known.

    It is called in a process apart: there it replaces how modules take their weights.
    """
    import timm
    import torch

    architecture = str(config.get("architecture"))
    if not timm.is_model(architecture):
        return f"timm has no model {architecture!r}"
    found: list[Loading] = []

    def note(model: Any, state: Any, strict: bool = True, assign: bool = False) -> Any:
        expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        one = differing(architecture, expected, {name: tuple(t.shape) for name, t in state.items()})
        found.append(one if strict else _forgiven(one, model, expected, tensors))
        return torch.nn.modules.module._IncompatibleKeys([], [])

    torch.nn.Module.load_state_dict = note  # type: ignore[assignment, method-assign]
    with ScratchDirectory() as directory, torch.device("meta"):
        Path(directory, CONFIG).write_text(json.dumps(config), "utf-8")
        timm.create_model(
            f"local-dir:{directory}",
            pretrained=True,
            pretrained_cfg_overlay={"source": "", "state_dict": empty(tensors)},
        )
    return found[-1] if found else f"timm reads weights of {architecture!r} in a way of its own"


def _forgiven(strict: Loading, model: Any, expected: dict[str, Shape], tensors: Shapes) -> Loading:
    """Return what is left where timm itself forgives; a classifier that is there and that it drops is none: the config
    counts other classes than the weights do."""
    parameters = {name for name, _ in model.named_parameters()}
    dropped = [name for name in strict.missing if name in tensors]
    missing = [name for name in strict.missing if name not in dropped]
    found = sorted_out(strict.model, parameters, strict.reshaped, missing, strict.unexpected)
    other = tuple((n, expected[n], tensors[n][1]) for n in dropped if tensors[n][1] != expected[n])
    same = tuple(n for n in dropped if tensors[n][1] == expected[n])
    return replace(found, reshaped=found.reshaped + other, unexpected=found.unexpected + same)
