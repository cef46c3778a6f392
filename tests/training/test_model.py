"""The model of a run: what is trained of it, and what cannot be trained."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from soupkit.errors import ArchitectureError, SoupkitError
from soupkit.training import train
from soupkit.training.model import build, find_start
from tests.conftest import PREPROCESS, TINY_MODEL, save
from tests.training.runs import IN_PROCESS, WEIGHTS, Interrupting, entry, model_of


def test_locked_towers_are_not_trained() -> None:
    model = model_of(entry(lock_image=True))
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained and not any(n.startswith("visual.") for n in trained)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model": "ViT-Z-99"}, "knows no model"),
        ({"model": {"embed_dim": 3}}, "no vision_cfg and text_cfg"),
        ({"loss": "siglip"}, "no logit_bias"),
        ({"model": "missing.json"}, "cannot be read"),
        ({"init": "nowhere"}, "does not exist"),
    ],
)
def test_a_model_that_cannot_be_trained_is_said(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(SoupkitError, match=said):
        model_of(entry(**fields))


def parent_of(place: Path, **fields: Any) -> Path:
    """Weights of a tiny model, as open_clip writes them."""
    torch.manual_seed(3)
    config = json.loads(json.dumps({**TINY_MODEL, **fields}))
    return save(place, build_from(config).state_dict(), {"model_cfg": config, "preprocess_cfg": PREPROCESS})


def build_from(config: dict[str, Any]) -> torch.nn.Module:
    from open_clip.model import CLIP, CustomTextCLIP

    fields = json.loads(json.dumps(config))
    return (CustomTextCLIP if fields.pop("custom_text", False) else CLIP)(**fields)


OTHERS: dict[str, dict[str, Any]] = {
    "another resolution": {"vision_cfg": {**TINY_MODEL["vision_cfg"], "image_size": 48}},
    "a wide image": {"vision_cfg": {**TINY_MODEL["vision_cfg"], "image_size": [32, 48]}},
    "another context": {"text_cfg": {**TINY_MODEL["text_cfg"], "context_length": 12}},
    "both": {
        "vision_cfg": {**TINY_MODEL["vision_cfg"], "image_size": 8},
        "text_cfg": {**TINY_MODEL["text_cfg"], "context_length": 5},
    },
    "a bias": {"init_logit_bias": -10.0},
}


@pytest.mark.parametrize("custom", [False, True], ids=["CLIP", "CustomTextCLIP"])
@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_weights_of_another_model_begin_as_open_clip_loads_them_and_it_is_said(
    tmp_path: Path, other: dict[str, Any], custom: bool
) -> None:
    shape = {"custom_text": True} if custom else {}
    parent = parent_of(tmp_path / "parent", **shape)
    config = {**TINY_MODEL, **shape, **other}
    watched = Interrupting(-1)
    run = entry(model=config, init=str(parent))
    ours, _ = build(run, find_start(run), torch.device("cpu"), watched)
    theirs = build_from(config)
    open_clip.load_checkpoint(theirs, str(parent / WEIGHTS))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(ours.state_dict()[n], t) for n, t in theirs.state_dict().items())
    assert len(watched.notes) == (2 if len(other) == 2 else 1)
    assert all("as open_clip" in note for note in watched.notes)


def test_the_siglip_loss_from_a_clip_without_a_bias_adds_one_that_travels_on(tmp_path: Path) -> None:
    parent = parent_of(tmp_path / "parent")
    run = entry(model=None, init=str(parent), loss="siglip", samples=16, warmup=0)
    train(run, tmp_path / "run", options=IN_PROCESS)
    again = open_clip.create_model(f"local-dir:{tmp_path / 'run'}")
    assert again.logit_bias is not None and 0 < again.logit_bias.detach().abs() < 0.1
    tuned = entry(model=None, init=str(tmp_path / "run"), loss="siglip")
    assert torch.equal(model_of(tuned).logit_bias, again.logit_bias)


def test_weights_of_another_width_are_named(tmp_path: Path) -> None:
    parent = parent_of(tmp_path / "parent")
    wider = {**TINY_MODEL, "vision_cfg": {**TINY_MODEL["vision_cfg"], "width": 64}}
    with pytest.raises(ArchitectureError, match="its config asks for") as caught:
        model_of(entry(model=wider, init=str(parent)))
    assert "tensor" in caught.value.where and caught.value.hint
