"""Images and models to measure the evaluator on: JPEG files of ImageNet's usual size, and small CLIPs."""

import argparse
import io
import json
import tarfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from safetensors.torch import save_file

_TEMPLATES = ["a photo of a {c}.", "a bad photo of a {c}.", "a sketch of the {c}.", "a {c} in a video game."]


def make_images(folder: Path, images: int, classes: int = 50, templates: Sequence[str] = _TEMPLATES) -> Path:
    """Write a WebDataset folder of noisy, smooth pictures; kept when it is there."""
    from open_clip import IMAGENET_CLASSNAMES

    if (folder / "test" / "nshards.txt").exists():
        return folder
    split = folder / "test"
    split.mkdir(parents=True, exist_ok=True)
    (folder / "classnames.txt").write_text("\n".join(IMAGENET_CLASSNAMES[:classes]) + "\n")
    (folder / "zeroshot_classification_templates.txt").write_text("\n".join(templates) + "\n")
    generator = np.random.default_rng(0)
    with ExitStack() as stack:
        # Two shards: clip-benchmark's two loader processes need one each.
        archives = [stack.enter_context(tarfile.open(split / f"{i}.tar", "w")) for i in range(2)]
        for n in range(images):
            coarse = PIL.Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8))
            smooth = np.asarray(coarse.resize((500, 375), PIL.Image.Resampling.BICUBIC)).astype(np.int16)
            pixels = (smooth + generator.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8)
            buffer = io.BytesIO()
            PIL.Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
            for suffix, data in (("jpg", buffer.getvalue()), ("cls", str(n % classes).encode())):
                member = tarfile.TarInfo(f"s{n:07d}.{suffix}")
                member.size = len(data)
                archives[n % 2].addfile(member, io.BytesIO(data))
    (split / "nshards.txt").write_text("2\n")
    return folder


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the size of the small models."""
    parser.add_argument("--width", type=int, default=64, help="of both towers of the candidates, 64 or more")
    parser.add_argument("--layers", type=int, default=3, help="of both towers")


def config_of(width: int, layers: int) -> dict[str, Any]:
    """Return the config of a small CLIP with images of 224 px in patches of 32."""
    vision = {"image_size": 224, "layers": layers, "width": width, "head_width": 64, "patch_size": 32}
    text = {"context_length": 77, "vocab_size": 49408, "width": width, "heads": width // 64, "layers": layers}
    preprocess = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28], "interpolation": "bicubic"}
    return {"model_cfg": {"embed_dim": width, "vision_cfg": vision, "text_cfg": text}, "preprocess_cfg": preprocess}


def make_models(folder: Path, count: int, config: dict[str, Any]) -> list[Path]:
    """Write `count` models of one architecture, random, as open_clip directories; kept when they are there."""
    from open_clip.model import CLIP

    paths = []
    for n in range(count):
        path = folder / f"m{n}"
        paths.append(path)
        if (path / "open_clip_config.json").exists():
            continue
        path.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(n)
        model_cfg = config["model_cfg"]
        model = CLIP(model_cfg["embed_dim"], dict(model_cfg["vision_cfg"]), dict(model_cfg["text_cfg"]))
        state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        save_file(state, path / "open_clip_model.safetensors", {"format": "pt"})
        (path / "open_clip_config.json").write_text(json.dumps(config))
    return paths
