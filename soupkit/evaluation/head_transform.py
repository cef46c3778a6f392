"""How a classifier with a head prepares images: by its own library's transform, up to where it normalises."""

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import PIL
import PIL.Image

from soupkit.checkpoint.architecture import Config
from soupkit.errors import CheckpointError
from soupkit.evaluation.adapter import preprocess_of
from soupkit.evaluation.heads import is_head
from soupkit.evaluation.transform import Transform, open_transform

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HINT = "give another with --preprocess FILE"


def transform_of(config: Config, where: object) -> Transform:
    """Return the transform of any model's config: of one with a head as its library has it, else open_clip's.

    Raises CheckpointError for one that cannot be made.
    """
    return open_head_transform(config, where) if is_head(config) else open_transform(preprocess_of(config), where)


def open_head_transform(config: Config, where: object) -> Transform:
    """Return the transform of a classifier's config. Raises CheckpointError where its library refuses it."""
    preprocess = config["preprocess"]
    try:
        if preprocess is None:
            return _of_torchvision()
        if "timm" in preprocess:
            return _of_timm(preprocess["timm"])
        if "transformers" in preprocess:
            return _of_transformers(preprocess["transformers"], preprocess.get("of"))
    except Exception as error:  # each library has exceptions of its own
        what = f"has a transform that cannot be made: {type(error).__name__}: {str(error)[:200]}"
        raise CheckpointError(what, where, _HINT) from error
    return open_transform(preprocess, where)


def _of_steps(steps: list[Any], mean: Any, std: Any, key: Mapping[str, Any]) -> Transform:
    def crop(image: PIL.Image.Image) -> np.ndarray:
        for step in steps:
            image = step(image)
        return np.asarray(image)

    height, width, _ = crop(PIL.Image.new("RGB", (640, 480))).shape
    named = json.dumps({**key, "pillow": PIL.__version__}, sort_keys=True, default=str)
    return Transform(crop, (height, width), _three(mean), _three(std), named)


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _of_torchvision() -> Transform:
    """What torchvision's classifiers of ImageNet are evaluated with: 256 pixels, of which the middle 224."""
    from torchvision.transforms import CenterCrop, Resize

    return _of_steps([Resize(256), CenterCrop(224)], _IMAGENET_MEAN, _IMAGENET_STD, {"torchvision": [256, 224]})


def _of_timm(pretrained_cfg: dict[str, Any]) -> Transform:
    import timm
    from timm.data import create_transform, resolve_data_config
    from torchvision.transforms import Normalize

    resolved = resolve_data_config({}, pretrained_cfg=pretrained_cfg)
    *geometry, _, normalize = create_transform(**resolved, is_training=False).transforms
    assert isinstance(normalize, Normalize)
    decisive = {k: v for k, v in resolved.items() if k not in ("mean", "std")}
    return _of_steps(geometry, normalize.mean, normalize.std, {"timm": timm.__version__, **decisive})


def _of_transformers(processor: dict[str, Any], model_type: Any) -> Transform:
    """The image processor itself, without its last two steps: it gives pixels as bytes then."""
    import transformers

    kind = _type_of(processor, model_type)
    if not re.fullmatch(r"\w+ImageProcessor(Fast|Pil)?", kind):
        raise ValueError(f"its preprocessor_config.json names {kind!r}, which is no image processor")
    own = getattr(transformers, kind).from_dict(processor)

    def crop(image: PIL.Image.Image) -> PIL.Image.Image:
        pixels = own(image, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
        return PIL.Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)).astype(np.uint8))

    normalises = processor.get("do_normalize", True)
    mean = own.image_mean if normalises else (0.0, 0.0, 0.0)
    std = own.image_std if normalises else (1.0, 1.0, 1.0)
    # What is left of 255 where a processor scales otherwise, or not at all.
    factor = 255 * own.rescale_factor if processor.get("do_rescale", True) else 255.0
    mean, std = [m / factor for m in mean], [s / factor for s in std]
    return _of_steps([crop], mean, std, {"transformers": transformers.__version__, **processor})


def _type_of(processor: dict[str, Any], model_type: Any) -> str:
    """Return the type of an image processor, which files of before 2023 name otherwise (`feature_extractor_type`), or
    leave to the type of the model."""
    extractor = str(processor.get("feature_extractor_type", ""))
    kind = processor.get("image_processor_type") or extractor.replace("FeatureExtractor", "ImageProcessor")
    if not kind:
        from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

        # By the version one name, several, or a map from backends; without a suffix it is transformers' first choice.
        named: Any = IMAGE_PROCESSOR_MAPPING_NAMES.get(str(model_type)) or ()
        several = named.values() if isinstance(named, dict) else [named] if isinstance(named, str) else named
        kind = min((name for name in several if isinstance(name, str)), key=len, default=None)
    return str(kind)
