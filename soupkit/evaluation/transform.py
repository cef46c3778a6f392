"""Images to uint8 pixels, by open_clip's own transform up to where it normalises."""

import io
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL
import PIL.Image

from soupkit.errors import CheckpointError

# What an image may take: 134 million pixels are 400 MB as RGB. The same holds for an image while it is resized, which
# is much wider than the model's input where it is a thousand times as wide as high.
MOST_PIXELS = 1 << 27
# Everything Pillow reads but formats that run other programs (EPS), are no pictures, or nobody keeps data sets in.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "PPM", "AVIF", "JPEG2000", "TGA", "ICO")
# Pillow warns at two thirds of MOST_PIXELS, of images that are taken, and again with every process.
warnings.filterwarnings("ignore", category=PIL.Image.DecompressionBombWarning)


@dataclass(frozen=True, slots=True)
class Transform:
    """What happens to an image: `crop` turns it into uint8 [height, width, 3]; `mean` and `std` normalise what is then
    between 0 and 1. `key` names all that decides the pixels: two transforms of one key give the same."""

    crop: Callable[[PIL.Image.Image], np.ndarray]
    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    key: str


def open_transform(preprocess: Mapping[str, Any], where: object = "the model") -> Transform:
    """Return the evaluation transform of a `preprocess_cfg`, that of `where`, as open_clip builds it.

    Raises CheckpointError for a config that open_clip refuses.
    """
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from torchvision.transforms import Normalize, ToTensor

    fields = {k: v for k, v in preprocess.items() if k in PreprocessCfg.__dataclass_fields__ and v is not None}
    try:
        config = PreprocessCfg(**fields)
        steps = image_transform_v2(config, is_train=False).transforms
    except (TypeError, ValueError, AssertionError) as error:
        what = f"has a preprocess_cfg that open_clip refuses: {error}"
        raise CheckpointError(what, where, "correct it, or give another with --preprocess") from error
    *geometry, to_tensor, normalize = steps
    if not isinstance(to_tensor, ToTensor) or not isinstance(normalize, Normalize):
        raise CheckpointError(
            f"has a transform that soupkit does not know: {steps}", where, "give another preprocess_cfg: --preprocess"
        )
    size = (config.size, config.size) if isinstance(config.size, int) else (config.size[0], config.size[1])

    def crop(image: PIL.Image.Image) -> np.ndarray:
        longer, shorter = max(image.size), max(1, min(image.size))
        if config.resize_mode == "shortest" and longer / shorter * max(size) ** 2 > MOST_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels are too long a strip to be resized")
        for step in geometry:
            image = step(image)
        return np.asarray(image)

    decisive = {"size": size, "interpolation": config.interpolation, "resize_mode": config.resize_mode}
    if config.resize_mode != "squash":
        decisive["fill_color"] = config.fill_color
    key = json.dumps({**decisive, "pillow": PIL.__version__}, sort_keys=True)
    return Transform(crop, size, tuple(normalize.mean), tuple(normalize.std), key)


def decode(data: bytes) -> PIL.Image.Image:
    """Decode an image file to RGB. Raises OSError for one that is damaged or has more than MOST_PIXELS.

    Colours are converted before anything is resized, as CLIP_benchmark does and torchvision's ImageFolder.
    """
    return _decoded(data, "RGB")


def decode_as_stored(data: bytes) -> PIL.Image.Image:
    """Decode an image file in its own mode, as open_clip's transform takes it, which resizes before it converts the
    colours. Raises as `decode` does."""
    return _decoded(data, None)


def _decoded(data: bytes, mode: str | None) -> PIL.Image.Image:
    PIL.Image.init()
    try:
        image = PIL.Image.open(io.BytesIO(data), formats=[name for name in _FORMATS if name in PIL.Image.OPEN])
        if image.width * image.height > MOST_PIXELS:
            raise OSError(f"{image.width:,} x {image.height:,} pixels, of which {MOST_PIXELS:,} are the most")
        if mode is not None:
            return image.convert(mode)
        image.load()
        return image
    except PIL.UnidentifiedImageError as error:  # whose own words name the object that held the bytes
        raise OSError("no format that Pillow knows") from error
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a damaged file may make Pillow's readers raise anything
        raise OSError(f"{type(error).__name__}: {error}") from error
