"""Classifiers with a head as modules: built by their own library from a config (`heads`), filled from a checkpoint, and
asked for logits."""

import ast
import importlib
import json
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from soupkit.checkpoint.architecture import Config
from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.errors import ArchitectureError, UsageError
from soupkit.evaluation.adapter import build_model, fill_model
from soupkit.scratch import ScratchDirectory

_BUILDER = re.compile(r"(?P<module>[^():]+):(?P<function>\w+)(?:\((?P<arguments>.*)\))?")


def build_head(config: Config, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Build the classifier of a config, to be filled from a checkpoint; its state has the names of the checkpoint's.

    Nothing is downloaded. Raises ArchitectureError where its library cannot build it, UsageError for a builder that
    does not exist or makes no model.
    """
    builders: dict[str, Callable[[Config], nn.Module]] = {
        "builder": _built_by_function, "model_soups": _ModelSoups, "timm": _built_by_timm,
        "transformers": _built_by_transformers,
    }  # fmt: skip
    try:
        with torch.device("meta") if device.type == "meta" else nullcontext():
            model = builders[config["head"]](config)
    except (ArchitectureError, UsageError):
        raise
    except ImportError as error:
        what = f"cannot be built: {error}"
        raise ArchitectureError(what, "the model", f"install what it needs: pip install {config['head']}") from error
    except Exception as error:  # each library, and each builder, has exceptions of its own
        first = (str(error).splitlines() or [""])[0][:200]
        what = f"cannot be built by {config['head']}: {type(error).__name__}: {first}"
        raise ArchitectureError(what, "the model", "check its config.json") from error
    return model.to(device=device, dtype=dtype).eval().requires_grad_(False)


def _built_by_timm(config: Config) -> nn.Module:
    import timm

    architecture, arguments = config["build"]
    return timm.create_model(architecture, pretrained=False, **arguments)


def _built_by_transformers(config: Config) -> nn.Module:
    from transformers import AutoConfig, AutoModelForImageClassification

    with ScratchDirectory() as directory:
        (Path(directory) / "config.json").write_text(json.dumps(config["build"]))
        described = AutoConfig.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    return AutoModelForImageClassification.from_config(described, trust_remote_code=False)


def _built_by_function(config: Config) -> nn.Module:
    match = _BUILDER.fullmatch(config["build"].strip())
    where = f"--builder {config['build']}"
    if match is None:
        raise UsageError("is no MODULE:FUNCTION", where, "for example --builder 'torchvision.models:resnet50'")
    try:
        function = getattr(importlib.import_module(match["module"]), match["function"])
        call = ast.parse(f"call({match['arguments'] or ''})", mode="eval").body
        assert isinstance(call, ast.Call)
        given = [ast.literal_eval(argument) for argument in call.args]
        arguments = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (ImportError, AttributeError, ValueError, SyntaxError) as error:
        raise UsageError(f"cannot be found: {error}", where, "name a function that can be imported") from error
    model = function(*given, **arguments)
    if not isinstance(model, nn.Module):
        raise UsageError(f"gives a {type(model).__name__}", where, "it should give a torch.nn.Module")
    return model


class _ModelSoups(nn.Module):
    """A CLIP's image tower and a linear head on its normalised features, in the names of model-soups' ModelWrapper."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        clip = {"model_cfg": config["build"], "preprocess_cfg": {}}
        self.model = build_model(clip, torch.device("cpu"), torch.float32, random=False)
        self.classification_head = nn.Linear(config["width"], config["outputs"], bias=config["bias"])
        # The published models keep some of the text tower and not its transformer; whatever is not stored goes.
        stored = set(config["names"])
        for name in [name for name in self.state_dict() if name not in stored]:
            owner, _, last = name.rpartition(".")
            module: Any = self.get_submodule(owner)
            module._parameters.pop(last, None)
            module._buffers.pop(last, None)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [n, outputs] of `images`."""
        encode: Any = self.model.encode_image
        return self.classification_head(normalize(encode(images), dim=-1))


def fill_head(model: nn.Module, config: Config, checkpoint: Checkpoint) -> None:
    """Copy the weights of `checkpoint` into the classifier `model` of `config`, in place.

    Raises ArchitectureError where they do not fit, CheckpointError for a file that was cut short since it was opened.
    """
    if config["head"] != "transformers":
        fill_model(model, checkpoint)
        return
    state = {name: checkpoint.read(name) for name in checkpoint.tensors}
    filled, report = _translated(model, state)
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report.get(what):
            name = sorted(map(str, report[what]))[0]
            raise ArchitectureError(
                f"does not fit its config at {name!r} ({what.split('_')[0]})", checkpoint.ref, "check its config.json"
            )
    model.load_state_dict(filled.state_dict())


def _translated(model: nn.Module, state: dict[str, Tensor]) -> tuple[nn.Module, dict[str, Any]]:
    """Return a model of transformers' with the weights `state`, in the names of its files, and what did not fit.

    Its files have other names than its models since version 5, which it alone translates.
    """
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        kind: Any = type(model)
        filled, report = kind.from_pretrained(None, config=model.config, state_dict=state, output_loading_info=True)
    finally:
        logging.set_verbosity(verbosity)
    return filled, report


def tensors_by_file_names(model: nn.Module, config: Config, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the tensors of the classifier `model` under the names that `checkpoint` has for them.

    Raises ArchitectureError where one of the model's is made of several of the file's.
    """
    live = dict(model.state_dict())
    if config["head"] != "transformers":
        return live
    # Each tensor of the file is filled with a number of its own, which tells where it goes.
    names = list(checkpoint.tensors)
    marked = {name: torch.full(checkpoint.tensors[name].shape, float(i)) for i, name in enumerate(names)}
    filled, _ = _translated(model, marked)
    by_file = {}
    for name, tensor in filled.state_dict().items():
        number = float(tensor.flatten()[0])
        if not (tensor == number).all() or not 0 <= number < len(names) or number != int(number):
            raise ArchitectureError(
                f"is stored otherwise than transformers holds it, at {name!r}", checkpoint.ref,
                "search by a score of your own: --score 'COMMAND {model}'",
            )  # fmt: skip
        by_file[names[int(number)]] = live[name]
    return by_file


def head_logits(model: nn.Module, images: Tensor) -> Tensor:
    """Return what a classifier gives for `images`, float32 [n, outputs], whatever its library wraps it in."""
    given: Any = model(images)
    logits = given if isinstance(given, Tensor) else getattr(given, "logits", None)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        kind = type(given).__name__
        raise ArchitectureError(f"gives a {kind} and no logits", "the model", "it should give logits [n, classes]")
    return logits.float()
