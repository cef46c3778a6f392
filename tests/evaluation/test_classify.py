"""`soupkit classify` gives the probabilities of open_clip's own example."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import open_clip
import PIL.Image
import pytest
import torch

from tests.evaluation.conftest import picture

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize("kind", ["digits", "siglip"])
def test_probabilities_are_those_of_open_clips_example(
    kind: str, digit_models: list[Path], zoo: dict[str, Path], tmp_path: Path, inline: Run
) -> None:
    path = digit_models[1] if kind == "digits" else zoo[kind]
    images = [tmp_path / "a.png", tmp_path / "b.jpg", tmp_path / "transparent.png", tmp_path / "palette.png"]
    for n, (image, mode) in enumerate(zip(images, ("RGB", "RGB", "RGBA", "P"), strict=True)):
        picture(n).convert(mode).save(image)
    labels = ["the digit one", "the digit two", "a photo"]
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{path}")
    model.eval()
    with torch.no_grad():
        image_features = model.encode_image(torch.stack([preprocess(PIL.Image.open(i)) for i in images]))
        text_features = model.encode_text(open_clip.get_tokenizer(f"local-dir:{path}")(labels))
        image_features /= image_features.norm(dim=-1, keepdim=True)
        text_features /= text_features.norm(dim=-1, keepdim=True)
        if kind == "siglip":
            logits = image_features @ text_features.T * model.logit_scale.exp() + model.logit_bias
            expected = torch.sigmoid(logits)
        else:
            expected = (100.0 * image_features @ text_features.T).softmax(dim=-1)
    options = [o for label in labels for o in ("--label", label)]
    document = json.loads(inline("classify", path, *images, *options, "--json").stdout)
    found = torch.tensor([[image["probabilities"][label] for label in labels] for image in document["images"]])
    assert (found - expected).abs().max() < 1e-5
    assert document["fingerprint"].startswith("xxh3:")
    table = inline("classify", path, *images, *options).stdout
    assert f"{100 * expected[0, 0]:.2f}" in table


def test_what_is_no_image_is_named(digit_models: list[Path], tmp_path: Path, inline: Run) -> None:
    (tmp_path / "x.png").write_text("not an image")
    done = inline("classify", digit_models[0], tmp_path / "x.png", "--label", "a", "--label", "b")
    assert done.returncode == 1 and "x.png" in done.stderr and "no image" in done.stderr
    assert "Pillow" in done.stderr and "BytesIO" not in done.stderr
    done = inline("classify", digit_models[0], tmp_path / "none.png", "--label", "a")
    assert done.returncode == 1 and "cannot be read: No such file or directory" in done.stderr


@pytest.mark.parametrize(
    ("labels", "message"), [([], "no label"), (["a", " "], "empty label"), (["a", "b", "a"], "twice")]
)
def test_labels_are_there_and_differ(
    digit_models: list[Path], tmp_path: Path, inline: Run, labels: list[str], message: str
) -> None:
    picture(0).save(tmp_path / "x.png")
    options = [o for label in labels for o in ("--label", label)]
    done = inline("classify", digit_models[0], tmp_path / "x.png", *options)
    assert done.returncode == 2 and message in done.stderr
