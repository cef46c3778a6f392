"""Images and models to measure the evaluator on: JPEG files of ImageNet's usual size, and small CLIPs."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from safetensors.torch import save_file

CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 256,
        "vision_cfg": {"image_size": 224, "layers": 6, "width": 256, "head_width": 64, "patch_size": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 256, "heads": 4, "layers": 4},
    },
    "preprocess_cfg": {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28], "interpolation": "bicubic"},
}
_TEMPLATES = ["a photo of a {c}.", "a bad photo of a {c}.", "a sketch of the {c}.", "a {c} in a video game."]


def make_images(folder: Path, images: int, classes: int = 50) -> Path:
    """Write a WebDataset folder of noisy, smooth pictures; kept when it is there."""
    from open_clip import IMAGENET_CLASSNAMES

    if (folder / "test" / "nshards.txt").exists():
        return folder
    place = folder / "test"
    place.mkdir(parents=True, exist_ok=True)
    (folder / "classnames.txt").write_text("\n".join(IMAGENET_CLASSNAMES[:classes]) + "\n")
    (folder / "zeroshot_classification_templates.txt").write_text("\n".join(_TEMPLATES) + "\n")
    generator = np.random.default_rng(0)
    with tarfile.open(place / "0.tar", "w") as archive:
        for n in range(images):
            coarse = PIL.Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8))
            smooth = np.asarray(coarse.resize((500, 375), PIL.Image.Resampling.BICUBIC)).astype(np.int16)
            pixels = (smooth + generator.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8)
            buffer = io.BytesIO()
            PIL.Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
            for suffix, data in (("jpg", buffer.getvalue()), ("cls", str(n % classes).encode())):
                member = tarfile.TarInfo(f"s{n:07d}.{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    (place / "nshards.txt").write_text("1\n")
    return folder


def make_models(folder: Path, count: int) -> list[Path]:
    """Write `count` models of one small architecture, random, as open_clip directories; kept when they are there."""
    from open_clip.model import CLIP

    paths = []
    for n in range(count):
        path = folder / f"m{n}"
        paths.append(path)
        if (path / "open_clip_config.json").exists():
            continue
        path.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(n)
        config = CONFIG["model_cfg"]
        model = CLIP(config["embed_dim"], dict(config["vision_cfg"]), dict(config["text_cfg"]))
        state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        save_file(state, path / "open_clip_model.safetensors", {"format": "pt"})
        (path / "open_clip_config.json").write_text(json.dumps(CONFIG))
    return paths
