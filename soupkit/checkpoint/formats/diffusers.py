"""Models of diffusers: weights and a config with `_class_name`. PIPELINE:unet names one of a pipeline."""

from pathlib import Path
from typing import Any

from soupkit.checkpoint.formats.diffusers_loading import loading
from soupkit.checkpoint.formats.folder import Folder, matching, read_object
from soupkit.checkpoint.formats.json_configs import Differences, json_differences
from soupkit.checkpoint.formats.table import Description, Family, Tensors
from soupkit.checkpoint.formats.weight_files import CONFIG, OutputFiles
from soupkit.errors import CheckpointError

PIPELINE_INDEX = "model_index.json"
_STEM = "diffusion_pytorch_model"
_WEIGHTS = (
    f"{_STEM}.safetensors.index.json", f"{_STEM}.safetensors", f"{_STEM}.bin.index.json", f"{_STEM}.bin"
)  # fmt: skip
_SIDE_FILES = (CONFIG, "scheduler_config.json")
_IGNORED = ("_diffusers_version", "_name_or_path", "dropout", "*_drop_prob", "_commit_hash")


def is_component(folder: Folder) -> bool:
    """Whether the folder is a model of diffusers."""
    return isinstance((read_object(folder, CONFIG) or {}).get("_class_name"), str)


def describe(folder: Folder, tensors: Tensors) -> Description:
    """Return the tensors, and the config that travels with them."""
    model = (read_object(folder, CONFIG) or {}).get("_class_name")
    return Description(tensors, model=model, config_name=CONFIG, side_files=matching(folder.names, _SIDE_FILES))


def config_differences(a: dict[str, Any], b: dict[str, Any]) -> Differences:
    """Return in which keys two configs differ that decide what a model computes."""
    return json_differences(a, b, ignored=_IGNORED)


def is_pipeline(folder: Folder) -> bool:
    """Whether the folder is a pipeline, whose models lie in folders of their own."""
    return PIPELINE_INDEX in folder.names


def components(folder: Folder) -> tuple[str, ...]:
    """Return the names of a pipeline's parts, models and others. Raises CheckpointError for an index that is none."""
    index = read_object(folder, PIPELINE_INDEX) or {}
    return tuple(
        name
        for name, kind in index.items()
        if not name.startswith("_") and isinstance(kind, list) and len(kind) == 2 and kind[1] is not None
    )


def refuse_pipeline(folder: Folder) -> CheckpointError:
    """Return the error that says which models of a pipeline can be named."""
    named = ", ".join(f"{folder}:{name}" for name in components(folder))
    return CheckpointError("is a pipeline of several models", folder, f"name one of its parts: {named}")


def component_of(pipeline: Path, name: str) -> Path:
    """Return the folder of a pipeline's part. Raises CheckpointError where it has no such part."""
    directory = pipeline / name
    if Path(name).name != name or not directory.is_dir():
        kept = ", ".join(path.name for path in sorted(pipeline.iterdir()) if path.is_dir())
        raise CheckpointError(f"has no part {name!r}", pipeline, f"it has {kept}")
    return directory


DIFFUSERS = Family(
    name="diffusers",
    summary="a model of diffusers: a folder whose config.json names a class",
    recognises=is_component,
    describe=describe,
    companions=_SIDE_FILES,
    weights=_WEIGHTS,
    output=OutputFiles(
        f"{_STEM}.safetensors", f"{_STEM}-{{number:05d}}-of-{{count:05d}}.safetensors",
        f"{_STEM}.safetensors.index.json", 10 * 10**9,
    ),
    configs=_SIDE_FILES,
    config_differences=config_differences,
    library="diffusers",
    loading=loading,
)  # fmt: skip
DIFFUSERS_PIPELINE = Family(
    name="diffusers_pipeline",
    summary="a pipeline of diffusers: PIPELINE:unet names one of its models",
    recognises=is_pipeline,
    describe=describe,
    companions=(),
    component=component_of,
    refuse=refuse_pipeline,
)
