"""Folders that transformers saves: weights, `config.json` with a `model_type`, and what its processors need.

Tensors keep transformers' names; a CLIP also has open_clip's form, in which it is scored (see `transformers_clip`).
"""

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from soupkit.checkpoint.architecture import candidates_by_shape, named_config
from soupkit.checkpoint.formats import sentence_transformers
from soupkit.checkpoint.formats import transformers_siglip as siglip
from soupkit.checkpoint.formats.fields import Fields
from soupkit.checkpoint.formats.folder import Folder, matching, read_object
from soupkit.checkpoint.formats.json_configs import Differences, json_differences
from soupkit.checkpoint.formats.open_clip import check_config, tokenizer_files
from soupkit.checkpoint.formats.table import Description, Family, Tensors
from soupkit.checkpoint.formats.transformers_clip import (
    CONVERTED,
    convert_tensors,
    is_transformers_clip,
    open_clip_name,
)
from soupkit.checkpoint.formats.transformers_clip_config import convert_config, to_preprocess
from soupkit.checkpoint.formats.transformers_loading import loading
from soupkit.checkpoint.formats.transformers_siglip import is_transformers_siglip
from soupkit.checkpoint.formats.weight_files import (
    CONFIG,
    MODEL_WEIGHTS,
    PREPROCESSOR_CONFIG,
    TOKENIZER_PATTERNS,
    OutputFiles,
)

PROCESSOR_CONFIG = "processor_config.json"
_PROCESSORS = (PREPROCESSOR_CONFIG, PROCESSOR_CONFIG, "video_preprocessor_config.json", "image_processor*.json")
# How text is made, and how it is laid out for the model: no weight depends on it.
_INDIFFERENT = (
    "config_sentence_transformers.json",
    "generation_config.json",
    "chat_template*",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
_SIDE_FILES = (
    CONFIG, *_PROCESSORS, *TOKENIZER_PATTERNS, "*.tiktoken", *_INDIFFERENT, *sentence_transformers.PATTERNS
)  # fmt: skip
# Keys of a config that say where it is from, how it was trained or is run, and nothing of what it computes.
_IGNORED = (
    "_name_or_path", "transformers_version", "torch_dtype", "dtype", "_commit_hash", "use_cache", "architectures",
    "*dropout*", "*_drop", "*drop_path*", "initializer_*", "layerdrop", "problem_type", "gradient_checkpointing",
    "output_attentions", "output_hidden_states", "return_dict", "_attn_implementation*", "*_loss_coef",
)  # fmt: skip


def is_transformers(folder: Folder) -> bool:
    """Whether the folder's config names a model of transformers."""
    config = read_object(folder, CONFIG) or {}
    return any(config.get(key) for key in ("model_type", "architectures", "vision_config"))


def describe(folder: Folder, tensors: Tensors) -> Description:
    """Return the tensors and the files that travel with them, and of a CLIP open_clip's form.

    Raises CheckpointError for a CLIP that open_clip cannot express.
    """
    own = read_object(folder, CONFIG) or {}
    classes = own.get("architectures")
    model = classes[0] if isinstance(classes, list) and classes else own.get("model_type")
    modules, notes = sentence_transformers.module_files(folder)
    described = Description(
        tensors,
        model=model if isinstance(model, str) else None,
        config_name=CONFIG,
        side_files=(*matching(folder.names, _SIDE_FILES), *modules),
        notes=notes,
    )
    if is_transformers_siglip(tensors):
        return _with_siglip(described, folder, own)
    return _with_clip(described, folder, own) if is_transformers_clip(tensors) else described


def _with_clip(described: Description, folder: Folder, own: dict[str, Any]) -> Description:
    """Add open_clip's form of a CLIPModel. Raises CheckpointError for one that open_clip cannot express."""
    config = convert_config(own, _image_processor(folder), folder.locate(CONFIG))
    check_config(config, folder.locate(CONFIG))
    converted = convert_tensors(described.tensors, folder)
    clip = Description(converted, config, CONFIG, tokenizer_files(folder, config), (CONVERTED,))
    # without the positions that old versions counted in a buffer
    tensors = {name: spec for name, spec in described.tensors.items() if open_clip_name(name) is not None}
    names = {name: open_clip_name(name) or name for name in tensors}
    return replace(described, tensors=tensors, clip=clip, clip_names=names)


def _with_siglip(described: Description, folder: Folder, own: dict[str, Any]) -> Description:
    """Add open_clip's form of a SiglipModel where open_clip has a model of its shapes."""
    converted = siglip.convert_tensors(described.tensors, folder)
    models = candidates_by_shape({name: spec.shape for name, spec in converted.items()})
    if not models:
        return described
    config = named_config(models[0])
    size = config["model_cfg"]["vision_cfg"]["image_size"]
    config["preprocess_cfg"] = to_preprocess(_image_processor(folder), size, folder.locate(CONFIG), crops=False)
    notes = [siglip.CONVERTED]
    if Fields(own, folder.locate(CONFIG)).section("vision_config").text("hidden_act", "gelu_pytorch_tanh") != "gelu":
        notes.append(f"open_clip's {models[0]} may compute GELU exactly where transformers takes tanh")
    clip = Description(converted, config, CONFIG, tokenizer_files(folder, config), tuple(notes))
    names = {name: siglip.open_clip_name(name) or name for name in described.tensors}
    return replace(described, clip=clip, clip_names=names)


def _image_processor(folder: Folder) -> dict[str, Any]:
    """Return how images are prepared: in a file of its own, or since version 5 within the processor's."""
    alone = read_object(folder, PREPROCESSOR_CONFIG)
    within = (read_object(folder, PROCESSOR_CONFIG) or {}).get("image_processor")
    return alone if alone is not None else within if isinstance(within, dict) else {}


def config_differences(a: dict[str, Any], b: dict[str, Any]) -> Differences:
    """Return in which keys two configs differ in what transformers builds from them, where it is installed."""
    return json_differences(a, b, ignored=_IGNORED, written_out=_written_out)


def _written_out(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config with transformers' defaults; as it is where they are not known, for a model of one's own."""
    if find_spec("transformers") is None:
        return config
    from transformers import CONFIG_MAPPING

    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        return config
    try:
        return CONFIG_MAPPING[kind].from_dict(dict(config)).to_dict()
    except Exception:  # a config that transformers refuses is compared as it is written
        return config


TRANSFORMERS = Family(
    name="transformers",
    summary="a folder with config.json, as transformers saves it, of any kind of model",
    recognises=is_transformers,
    describe=describe,
    companions=_SIDE_FILES,
    output=OutputFiles(MODEL_WEIGHTS, shard_bytes=50 * 10**9),
    indifferent=_INDIFFERENT,
    modules=sentence_transformers.folders_of_modules,
    configs=(CONFIG, *_PROCESSORS),
    config_differences=config_differences,
    library="transformers",
    loading=loading,
    spares=("pandas", "scipy", "sklearn", "torchvision"),
)
