"""Which model a checkpoint is: from the config that travels with it, a name, or the shapes of its tensors.

Shapes alone do not say everything: a `-quickgelu` model has the shapes of its twin. What they allow is listed as
candidates; the default among them is the one without quickgelu. Nothing here imports torch or open_clip: open_clip's
own configs are read as the JSON files that they are.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import xxhash

from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.differences import shape_differences
from soupkit.checkpoint.expected import expected_shapes
from soupkit.checkpoint.formats.transformers_clip_config import OPENAI_MEAN, OPENAI_STD
from soupkit.checkpoint.towers import CLASSIFICATION_HEAD, has_head, is_image, is_text
from soupkit.errors import ArchitectureError, UsageError
from soupkit.files import parse_json, read_text

KNOWN_MODELS = Path(__file__).with_name("known_models.json")
Config = dict[str, Any]
CLASS_NAMES = "class_names"  # beside model_cfg: what the outputs of a classification head are called, in their order
# Buffers that a state dict holds beside the parameters.
_BUFFERS = re.compile(r"(^|\.)(running_mean|running_var|num_batches_tracked|relative_position_index|attn_mask)$")
_PREPROCESS_HINT = "it is a JSON object of size, mean, std, interpolation and resize_mode"


@dataclass(frozen=True, slots=True)
class Architecture:
    """What a checkpoint is.

    `config` is an `open_clip_config.json` (`model_cfg`, `preprocess_cfg`), or None where it is not a model that
    open_clip builds. `model` is open_clip's name for it, or that of the family whose config is beside the weights; None
    for a config that has no name. `source` says how that is known: "open_clip_config.json", "config.json", "--model",
    or "shapes". `candidates` are the open_clip models of these shapes. Parameters are counted by tower where it is a
    CLIP; what is none has no towers. `has_head` says that it is a CLIP's image tower with a head of classes.
    """

    model: str | None
    config: Config | None
    source: str | None
    candidates: tuple[str, ...]
    parameters: int
    image_parameters: int
    text_parameters: int
    has_head: bool = False

    def __str__(self) -> str:
        """Say it as people do: "ViT-bigG-14, 2.54 B parameters: image 1.84 B, text 0.69 B"."""
        name = self.model or ("a model of its own config" if self.config else "an unknown model")
        whole, image, text = (_amount(n) for n in (self.parameters, self.image_parameters, self.text_parameters))
        towers = f": image {image}, text {text}" if self.image_parameters or self.text_parameters else ""
        return f"{name}, {whole} parameters{towers}"


def _amount(n: int) -> str:
    return f"{n / 1e9:.2f} B" if n >= 1e9 else f"{n / 1e6:.1f} M" if n >= 1e5 else f"{n:,}"


def shapes_of(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor."""
    return {name: spec.shape for name, spec in checkpoint.tensors.items()}


def shapes_digest(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return xxh3-128, in hex, over one line per tensor, name and shape, in the order of the names."""
    lines = "".join(f"{name} {','.join(map(str, shapes[name]))}\n" for name in sorted(shapes))
    return xxhash.xxh3_128_hexdigest(lines.encode())


def count_parameters(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int, int]:
    """Count the parameters: all, the image tower's, the text tower's. Buffers are none; logit scale is in neither."""
    sizes = {name: prod(shape) for name, shape in shapes.items() if not _BUFFERS.search(name)}
    image = sum(n for name, n in sizes.items() if is_image(name))
    return sum(sizes.values()), image, sum(n for name, n in sizes.items() if is_text(name))


@cache
def known_models() -> dict[str, dict[str, Any]]:
    """Return the table of open_clip's models: name -> digest of shapes and parameter counts."""
    return json.loads(KNOWN_MODELS.read_text("utf-8"))


@cache
def open_clip_configs() -> dict[str, Path]:
    """Return the config files of the installed open_clip, by model name, without importing it."""
    spec = find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        return {}
    folders = [Path(location, "model_configs") for location in spec.submodule_search_locations]
    return {path.stem: path for folder in folders for path in folder.glob("*.json")}


def named_config(name: str) -> Config:
    """Return open_clip's config of model `name`, as `open_clip_config.json` holds it, with default preprocessing.

    Raises UsageError, with the nearest names, for a model that open_clip does not have.
    """
    configs = open_clip_configs()
    if name not in configs:
        near = ", ".join(get_close_matches(name, configs, n=3)) or "`open_clip.list_models()` lists them"
        raise UsageError(f"names {name!r}, which is no model of open_clip", "--model", f"nearest: {near}")
    model_cfg = json.loads(configs[name].read_text("utf-8"))
    size = model_cfg.get("vision_cfg", {}).get("image_size", 224)
    preprocess: Config = {
        "size": size,
        "mode": "RGB",
        "mean": OPENAI_MEAN,
        "std": OPENAI_STD,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "fill_color": 0,
    }
    return {"model_cfg": model_cfg, "preprocess_cfg": preprocess}


def candidates_by_shape(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """Return the open_clip models of exactly these tensors, the default first: without quickgelu, then by name."""
    digest = shapes_digest(shapes)
    names = [name for name, model in known_models().items() if model["digest"] == digest]
    return tuple(sorted(names, key=lambda n: ("quickgelu" in n.lower(), len(n), n)))


def name_of_config(config: Config, candidates: tuple[str, ...]) -> str | None:
    """Return the candidate whose `model_cfg` is that of `config`, None where there is none."""
    configs = open_clip_configs()
    for name in (*candidates, *(n for n in configs if n not in candidates)):
        if name in configs and json.loads(configs[name].read_text("utf-8")) == config["model_cfg"]:
            return name
    return None


def architecture_of(
    checkpoint: Checkpoint, *, model: str | None = None, preprocess: Path | None = None
) -> Architecture:
    """Find out which model `checkpoint` is. `model` and `preprocess` speak for bare weights only.

    Raises UsageError for a model or a file that is not there, ArchitectureError for a model of other shapes.
    """
    shapes = shapes_of(checkpoint)
    candidates, headed = candidates_by_shape(shapes), has_head(shapes)
    config, name, source = checkpoint.config, None, checkpoint.config_path.name if checkpoint.config_path else None
    if config is not None:
        name = name_of_config(config, candidates)
        if name in known_models() and name not in candidates and not headed:
            raise ArchitectureError(
                f"says that the model is {name}, whose tensors are others{_differences(config, shapes)}",
                checkpoint.config_path or checkpoint.ref,
                f"the tensors are those of {', '.join(candidates)}" if candidates else "correct the config",
            )
        if model is not None and model != name:
            raise ArchitectureError(
                f"is {name or 'a model of its own'}, not {model}", checkpoint.config_path or checkpoint.ref,
                "leave --model out: the config beside the weights says what they are",
            )  # fmt: skip
    elif model is not None:
        config, name, source = named_config(model), model, "--model"
        if model in known_models() and model not in candidates and not headed:
            others = f"these tensors are those of {', '.join(candidates)}" if candidates else "no open_clip model fits"
            what = f"has tensors that are not those of {model}{_differences(config, shapes)}"
            raise ArchitectureError(what, checkpoint.ref, others)
    elif candidates:
        config, name, source = named_config(candidates[0]), candidates[0], "shapes"
    if config is not None and headed:
        _check_tower(config, shapes, checkpoint.config_path or checkpoint.ref, name)
    if config is not None and preprocess is not None:
        config = {**config, "preprocess_cfg": read_preprocess(preprocess)}
    whole, image, text = count_parameters(shapes)
    if headed:  # of the CLIP that it names there is the image tower, and perhaps the text tower
        image = text = 0
    if config is None and checkpoint.settings:  # of another kind than CLIP
        name, image, text = checkpoint.model, 0, 0
    return Architecture(name, config, source, candidates, whole, image, text, headed)


def _check_tower(config: Config, shapes: Mapping[str, tuple[int, ...]], where: object, name: str | None) -> None:
    """Raise ArchitectureError unless what lies beside a classification head is a CLIP's image tower as `config` says,
    perhaps with more of that CLIP."""
    if (expected := expected_shapes(config)) is None:
        return
    head = CLASSIFICATION_HEAD.removesuffix("weight")
    beside = {n.removeprefix("model."): s for n, s in shapes.items() if head not in n and not _BUFFERS.search(n)}
    wanted = {n: s for n, s in expected.items() if n in beside or (n.startswith("visual.") and not _BUFFERS.search(n))}
    if beside != wanted:
        what = f"has tensors beside its {CLASSIFICATION_HEAD} that are not those of {name or 'the model of its config'}"
        hint = "name the CLIP that its image tower is of, with --model; other tensors beside it are not read"
        raise ArchitectureError(f"{what}: {shape_differences(wanted, beside)}", where, hint)


def _differences(config: Config, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Say how tensors differ from those of the config's model, as far as that can be known."""
    expected = expected_shapes(config)
    return f": {shape_differences(expected, shapes)}" if expected is not None else ""


def read_preprocess(path: Path) -> Config:
    """Read a `preprocess_cfg` from a JSON file, which may be a whole open_clip config. Raises UsageError."""
    try:
        data = parse_json(read_text(path))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot be read as JSON: {error}", path, _PREPROCESS_HINT) from error
    data = data.get("preprocess_cfg", data) if isinstance(data, dict) else data
    if not isinstance(data, dict) or not {"mean", "std"} <= set(data):
        raise UsageError("is no preprocess_cfg", path, _PREPROCESS_HINT)
    return data
