"""Folders of timm's: weights and a `config.json` with `architecture` and `pretrained_cfg`, as its models on the Hub."""

from typing import Any

from soupkit.checkpoint.formats.folder import Folder, read_object
from soupkit.checkpoint.formats.json_configs import Differences, json_differences
from soupkit.checkpoint.formats.table import Description, Family, Tensors
from soupkit.checkpoint.formats.timm_loading import loading
from soupkit.checkpoint.formats.weight_files import CONFIG, MODEL_OUTPUT

# Keys that say where weights are from; the rest of `pretrained_cfg` says how images are prepared and classified.
_IGNORED = (
    "url", "file", "hf_hub_id", "hf_hub_filename", "source", "tag", "license", "paper_*", "origin_url", "description",
    "custom_load", "input_min", "*drop_rate*", "drop_path*",
)  # fmt: skip


def is_timm(folder: Folder) -> bool:
    """Whether the folder's config names an architecture of timm."""
    config = read_object(folder, CONFIG) or {}
    return isinstance(config.get("architecture"), str) and "model_type" not in config


def describe(folder: Folder, tensors: Tensors) -> Description:
    """Return the tensors, and the config that travels with them."""
    architecture = (read_object(folder, CONFIG) or {}).get("architecture")
    return Description(tensors, model=architecture, config_name=CONFIG, side_files=(CONFIG,))


def config_differences(a: dict[str, Any], b: dict[str, Any]) -> Differences:
    """Return in which keys two configs differ that decide what a model computes."""
    return json_differences(a, b, ignored=_IGNORED)


TIMM = Family(
    name="timm",
    summary="a folder with config.json that names an architecture, as timm pushes it to the Hub",
    recognises=is_timm,
    describe=describe,
    companions=(CONFIG,),
    output=MODEL_OUTPUT,
    configs=(CONFIG,),
    config_differences=config_differences,
    library="timm",
    loading=loading,
)
