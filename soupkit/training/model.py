"""The model of a run: what it is, its first weights, and which of its parameters are trained."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from soupkit.checkpoint import Checkpoint, open_checkpoint
from soupkit.checkpoint.fingerprint import fingerprint
from soupkit.checkpoint.reference import open_headers
from soupkit.checkpoint.run_record import record_of
from soupkit.checkpoint.towers import has_head
from soupkit.errors import ArchitectureError, UsageError
from soupkit.evaluation.adapter import Tokenizer, build_model, fill_model, fitted, open_tokenizer
from soupkit.files import parse_json, read_text
from soupkit.progress import SILENT, Progress
from soupkit.training.class_names import with_classes
from soupkit.training.entry import TrainEntry
from soupkit.training.order import seed_of

_SIGLIP_BIAS = -10  # Zhai et al. 2023, https://arxiv.org/abs/2303.15343, for random weights


@dataclass(frozen=True, slots=True)
class Start:
    """Where a run begins: the config that travels with its weights, and its parent's fingerprint.

    `lineage` are the fingerprints of the parent, the parent's parent and so on, as far as they are recorded. `notes`
    are what a person should know of it.
    """

    config: dict[str, Any]
    fingerprint: str | None
    lineage: tuple[str, ...]
    tokenizer_files: tuple[Path, ...]
    notes: tuple[str, ...] = ()


def find_start(entry: TrainEntry, progress: Progress = SILENT) -> Start:
    """Read the config and the parent of a run, and of a classifier the names of the classes of its data.

    Raises UsageError, CheckpointError, ArchitectureError or HubError, and DataError for classes that do not fit.
    """
    if entry.init is None:
        return Start(find_config(entry), None, (), ())
    with open_checkpoint(entry.init, progress=progress) as parent:
        config, notes = _fitted_to_loss(entry, _own_config(entry) if entry.model else _config_of(parent), parent)
        value = fingerprint(parent).value
        record = record_of(parent.path)
        return Start(config, value, (value, *(record.lineage if record else ())), parent.tokenizer_files, notes)


def find_config(entry: TrainEntry) -> dict[str, Any]:
    """Read the config of a run's model; of weights on the Hub no more than that is fetched. Raises as `find_start`."""
    if entry.model is not None:
        config = _own_config(entry)
        return config if entry.init is None else _with_bias(entry, config)
    assert entry.init is not None
    with open_headers(entry.init) as parent:
        return _with_bias(entry, _config_of(parent))


def check_start(entry: TrainEntry) -> None:
    """See whether a run can begin, as far as configs, headers and the names of classes say. Raises as `find_start`."""
    config = find_config(entry)
    if entry.init is not None:
        with open_headers(entry.init) as parent:
            _fitted_to_loss(entry, config, parent)


def _fitted_to_loss(
    entry: TrainEntry, config: dict[str, Any], parent: Checkpoint
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the config with what the loss adds to it, and what is to be said of that."""
    if entry.classifies:
        return with_classes(entry, config, parent)
    if has_head(parent.tensors):
        what = f"is a classifier with a head, and the loss {entry.loss} trains a CLIP"
        raise UsageError(what, parent.ref, "start from the CLIP, or take loss: cross_entropy")
    return _with_bias(entry, config), ()


def _with_bias(entry: TrainEntry, config: dict[str, Any]) -> dict[str, Any]:
    """Return the config with a bias where a run that starts from weights needs one, as open_clip's trainer adds it."""
    model_cfg = config["model_cfg"]
    if entry.loss != "siglip" or model_cfg.get("init_logit_bias") is not None:
        return config
    return {**config, "model_cfg": {**model_cfg, "init_logit_bias": _SIGLIP_BIAS}}


def _config_of(parent: Checkpoint) -> dict[str, Any]:
    if parent.config is None:
        raise UsageError("has no config beside its weights", parent.ref, "say which model it is with model")
    return parent.config


def _own_config(entry: TrainEntry) -> dict[str, Any]:
    import open_clip

    model: Any = entry.model
    if isinstance(model, str) and model.endswith(".json"):
        try:
            model = parse_json(read_text(Path(model)))
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot be read: {error}", entry.model, "name a JSON file with a model_cfg") from error
    elif isinstance(model, str):
        name, model = model, open_clip.get_model_config(model)
        if model is None:
            raise UsageError(f"open_clip knows no model {name!r}", "model", "open_clip.list_models() lists them")
    config = dict(model) if "model_cfg" in model else {"model_cfg": dict(model)}
    if not all(isinstance(config["model_cfg"].get(k), dict) for k in ("vision_cfg", "text_cfg")):
        raise UsageError("the model's config has no vision_cfg and text_cfg", "model", "write it as open_clip does")
    from open_clip.transform import PreprocessCfg

    default = PreprocessCfg()
    preprocess = {k: getattr(default, k) for k in ("mode", "mean", "std", "interpolation", "resize_mode", "fill_color")}
    given = {**config.get("preprocess_cfg", {}), **(entry.preprocess or {})}
    size = config["model_cfg"]["vision_cfg"].get("image_size", 224)
    return {**config, "preprocess_cfg": json.loads(json.dumps({"size": size, **preprocess, **given}))}


def build(
    entry: TrainEntry, start: Start, device: torch.device, progress: Progress = SILENT
) -> tuple[nn.Module, Tokenizer]:
    """Return the model with its first weights, ready to be trained, and its tokenizer.

    Parameters are float32. Patch dropout is the run's; the config that is written beside the weights knows none.
    Raises ArchitectureError, CheckpointError, or UsageError for what the model cannot do.
    """
    torch.manual_seed(seed_of(entry.seed, "init"))
    model = build_model(training_config(entry, start), device, torch.float32, progress=progress)
    if entry.init is not None:
        with open_checkpoint(entry.init) as parent:
            fill_clip(model, parent, progress)
    model.train().requires_grad_(True)
    lock_towers(model, image=entry.lock_image, text=entry.lock_text)
    if entry.loss == "siglip" and getattr(model, "logit_bias", None) is None:
        raise ArchitectureError("has no logit_bias, which the SigLIP loss needs", "model", "add init_logit_bias: -10")
    return model, open_tokenizer(start.config, start.tokenizer_files, entry.init or "model")


def training_config(entry: TrainEntry, start: Start) -> dict[str, Any]:
    """Return the config of the CLIP that a run trains: that of its weights, with the run's patch dropout."""
    model_cfg = start.config["model_cfg"]
    vision = {**model_cfg["vision_cfg"], "patch_dropout": entry.patch_dropout}
    if not entry.patch_dropout:
        vision.pop("patch_dropout")
    return {**start.config, "model_cfg": {**model_cfg, "vision_cfg": vision}}


def fill_clip(model: nn.Module, parent: Checkpoint, progress: Progress = SILENT) -> None:
    """Fill a CLIP from its parent, resized where it has another resolution or context length, which is said."""
    tensors, notes = fitted(model, parent)
    fill_model(model, parent, tensors)
    for note in notes:
        progress.note(note)


def lock_towers(model: nn.Module, *, image: bool, text: bool) -> None:
    """Let parameters of towers of a CLIP need no gradient. Raises UsageError where open_clip cannot lock them."""
    for lock, name in ((image, "lock_image_tower"), (text, "lock_text_tower")):
        if lock:
            try:
                getattr(model, name)()
            except (AttributeError, NotImplementedError, AssertionError) as error:
                what = f"this model has no {name} in open_clip: {error}"
                raise UsageError(what, "lock_image, lock_text", "train both towers") from error
