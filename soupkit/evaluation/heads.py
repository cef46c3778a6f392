"""What is known of a classifier with a head from its files alone: timm's, transformers', a builder's, model-soups'.

It is a config, a dict for JSON as that of a CLIP is: `head` names how it is built, `outputs` counts what the head
gives, `labels` are what it calls them (None where nobody says). No weight is needed for it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from soupkit.checkpoint.architecture import CLASS_NAMES, Config, named_config, read_preprocess
from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.towers import CLASSIFICATION_HEAD, has_head
from soupkit.errors import ArchitectureError
from soupkit.evaluation.head_models import build_head
from soupkit.evaluation.text_files import read_lines
from soupkit.files import parse_json, read_text

_BIAS = CLASSIFICATION_HEAD.replace("weight", "bias")
_TIMM_NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)?")
_LABELS_IN = {"model_soups": CLASS_NAMES, "timm": "label_names", "transformers": "id2label"}
# What of a config's arguments would have timm read a file, or ask the Hub.
_NOT_OURS = ("pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "scriptable")


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
    if config is None:
        return None
    labels, outputs = config["labels"], config["outputs"]
    if labels is not None and len(labels) != outputs:  # such as those of the model that it was fine-tuned from
        what = f"names {len(labels)} classes of a head of {outputs}"
        hint = f"correct its {_LABELS_IN[config['head']]}"
        raise ArchitectureError(what, checkpoint.config_path or checkpoint.ref, hint)
    if options.label_map is not None:
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
    named = {**base, CLASS_NAMES: _texts(base.get(CLASS_NAMES))}
    config = model_soups_config(named, checkpoint.tensors, outputs, width)
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
