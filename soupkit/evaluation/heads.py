"""Classifiers with a head, as their own libraries build them: timm, transformers, a builder, and model-soups' form.

What is known of one is its config, a dict for JSON as that of a CLIP is: `head` names how it is built, `outputs` counts
what the head gives, `labels` are what it calls them (None where nobody says). No weight is needed for it.
"""

import ast
import importlib
import json
import re
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from soupkit.checkpoint.architecture import CLASS_NAMES, Config, named_config, read_preprocess
from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.towers import CLASSIFICATION_HEAD, has_head
from soupkit.errors import ArchitectureError, UsageError
from soupkit.evaluation.adapter import build_model, fill_model
from soupkit.evaluation.text_files import read_lines
from soupkit.files import parse_json, read_text
from soupkit.scratch import ScratchDirectory

_BIAS = CLASSIFICATION_HEAD.replace("weight", "bias")
_TIMM_NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)?")
# What of a config's arguments would have timm read a file, or ask the Hub.
_NOT_OURS = ("pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "scriptable")
_BUILDER = re.compile(r"(?P<module>[^():]+):(?P<function>\w+)(?:\((?P<arguments>.*)\))?")


@dataclass(frozen=True, slots=True)
class HeadOptions:
    """What a person says about a classifier that its files do not.

    `model` is open_clip's name of the tower under a head of model-soups' form; `builder` what makes the model of bare
    weights, MODULE:FUNCTION or MODULE:FUNCTION(VALUE, NAME=VALUE, ...); `preprocess` a file with a preprocess_cfg in
    open_clip's words; `label_map` a file with a line for each class of the task, the number or the name of the output
    that stands for it.
    """

    model: str | None = None
    builder: str | None = None
    preprocess: Path | None = None
    label_map: Path | None = None


def is_head(config: Config) -> bool:
    """Whether a config is that of a classifier with a head."""
    return "head" in config


def head_config(checkpoint: Checkpoint, options: HeadOptions) -> Config | None:
    """Return the config of a classifier with a head; None where `checkpoint` is none, or is not known to be one.

    Raises ArchitectureError for one that lacks what is needed to build it, DataError and UsageError for files of
    `options` that cannot be read.
    """
    config = _config(checkpoint, options)
    if config is not None and options.label_map is not None:
        config["label_map"] = read_lines(options.label_map)
    return config


def _config(checkpoint: Checkpoint, options: HeadOptions) -> Config | None:
    files = {name: _json(checkpoint.path / name) for name in ("config.json", "preprocessor_config.json")}
    described = files["config.json"] or {}
    preprocess = read_preprocess(options.preprocess) if options.preprocess is not None else None
    if options.builder is not None and checkpoint.config is None:
        config: Config = {"head": "builder", "build": options.builder, "preprocess": preprocess, "labels": None}
        return {**config, "outputs": _outputs(config)}
    if has_head(checkpoint.tensors):
        return _config_of_model_soups(checkpoint, options.model, preprocess)
    if isinstance(described.get("architecture"), str):
        return _config_of_timm(checkpoint, described, preprocess)
    architectures = described.get("architectures")
    names = architectures if isinstance(architectures, list) else []
    if any(isinstance(name, str) and name.endswith("ForImageClassification") for name in names):
        return _config_of_transformers(checkpoint, described, files["preprocessor_config.json"], preprocess)
    return None


def _json(path: Path) -> dict[str, Any] | None:
    try:
        data = parse_json(read_text(path))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _outputs(config: Config) -> int:
    """Return how many classes a model gives: what its last linear layer, or convolution, does."""
    model = build_head(config, torch.device("meta"), torch.float32)
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    if not layers:
        raise ArchitectureError("has no layer that classifies", "the model", "it should end in a torch.nn.Linear")
    return layers[-1].out_features if isinstance(layers[-1], nn.Linear) else layers[-1].out_channels


def _config_of_model_soups(checkpoint: Checkpoint, model: str | None, preprocess: dict[str, Any] | None) -> Config:
    """The form of mlfoundations/model-soups: a CLIP under `model.`, without its text transformer, and a linear head."""
    name = next(name for name in checkpoint.tensors if name.endswith(CLASSIFICATION_HEAD))
    base = checkpoint.config if model is None else named_config(model)
    if base is None:
        raise ArchitectureError(
            "has a classification_head on a tower that it does not name",
            checkpoint.ref,
            "say which model it is of, for example --model ViT-B-32-quickgelu for one of OpenAI's",
        )
    outputs, width = checkpoint.tensors[name].shape
    labels = _texts(base.get(CLASS_NAMES))
    if labels is not None and len(labels) != outputs:
        what = f"names {len(labels)} classes of a head of {outputs}"
        raise ArchitectureError(what, checkpoint.config_path or checkpoint.ref, f"correct its {CLASS_NAMES}")
    config = model_soups_config({**base, CLASS_NAMES: labels}, checkpoint.tensors, outputs, width)
    return config if preprocess is None else {**config, "preprocess": preprocess}


def model_soups_config(base: Config, names: Iterable[str], outputs: int, width: int) -> Config:
    """Return the config of a classifier whose tensors are called `names`: the image tower of the CLIP of `base`, an
    `open_clip_config.json`, and a head of `outputs` classes, whose names `base` may hold, on features of `width`."""
    names = sorted(names)
    return {
        "head": "model_soups", "build": base["model_cfg"], "names": names, "preprocess": _open_clip_preprocess(base),
        "outputs": outputs, "width": width, "bias": any(name.endswith(_BIAS) for name in names),
        "labels": base.get(CLASS_NAMES),
    }  # fmt: skip


def _open_clip_preprocess(config: Config) -> Config:
    size = config["model_cfg"].get("vision_cfg", {}).get("image_size", 224)
    return {**config.get("preprocess_cfg", {}), "size": size}


def _config_of_timm(checkpoint: Checkpoint, described: dict[str, Any], preprocess: dict[str, Any] | None) -> Config:
    if not _TIMM_NAME.fullmatch(described["architecture"]):  # such as hf-hub:..., which timm would download
        what = f"names {described['architecture']!r}, which is no architecture of timm's"
        raise ArchitectureError(what, checkpoint.path / "config.json", "write the name that timm.list_models() gives")
    arguments = described.get("model_args")
    plain = {k: v for k, v in arguments.items() if k not in _NOT_OURS} if isinstance(arguments, dict) else {}
    for name in ("num_classes", "global_pool"):
        if name in described:
            plain.setdefault(name, described[name])
    labels = described.get("label_names")
    config: Config = {"head": "timm", "build": [described["architecture"], plain]}
    outputs = plain.get("num_classes")
    return {
        **config, "outputs": outputs if isinstance(outputs, int) and outputs else _outputs(config),
        "preprocess": preprocess or {"timm": described.get("pretrained_cfg") or {}},
        "labels": _texts(described.get("label_descriptions"), labels) or _texts(labels),
    }  # fmt: skip


def _config_of_transformers(
    checkpoint: Checkpoint,
    described: dict[str, Any],
    processor: dict[str, Any] | None,
    preprocess: dict[str, Any] | None,
) -> Config:
    if preprocess is None and processor is None:
        raise ArchitectureError(
            "has no preprocessor_config.json", checkpoint.ref, "say how its images are prepared: --preprocess FILE"
        )
    by_number = described.get("id2label")
    labels = None
    if isinstance(by_number, dict) and set(by_number) == {str(i) for i in range(len(by_number))}:
        labels = _texts([by_number[str(i)] for i in range(len(by_number))])
        if labels == [f"LABEL_{i}" for i in range(len(by_number))]:  # what transformers writes where nobody says
            labels = None
    return {
        "head": "transformers", "build": described,
        "preprocess": preprocess or {"transformers": processor, "of": described.get("model_type")},
        "outputs": len(by_number) if isinstance(by_number, dict) else described.get("num_labels", 2), "labels": labels,
    }  # fmt: skip


def _texts(values: Any, order: Any = None) -> list[str] | None:
    """Return texts of a list, or of a dict in the order of its keys that is given; None for anything else."""
    if isinstance(values, dict) and isinstance(order, list):
        values = [values.get(key) for key in order]
    return values if isinstance(values, list) and values and all(isinstance(v, str) for v in values) else None


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
