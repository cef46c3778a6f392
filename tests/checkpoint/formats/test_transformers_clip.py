"""CLIP as transformers saves it computes the same in open_clip."""

import json
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

import soupkit
from soupkit.checkpoint import open_checkpoint
from soupkit.checkpoint.config_differences import config_differences
from soupkit.checkpoint.formats.transformers_clip_config import convert_config
from soupkit.errors import ArchitectureError, CheckpointError, UsageError
from tests.checkpoint.formats.samples import configured
from tests.checkpoint.test_references import same
from tests.conftest import CONFIG, PREPROCESS, TINY_MODEL, random_state, save


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("safe", [True, False])
def test_a_transformers_clip_computes_the_same_after_a_merge(activation: str, safe: bool, tmp_path: Path) -> None:
    import open_clip
    import transformers

    config = transformers.CLIPConfig(
        text_config={"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2,
                     "vocab_size": 1000, "max_position_embeddings": 16, "eos_token_id": 999, "bos_token_id": 998,
                     "hidden_act": activation},
        vision_config={"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 4,
                       "image_size": 32, "patch_size": 8, "hidden_act": activation},
        projection_dim=32,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.CLIPModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(tmp_path / "hf")
    if not safe:
        torch.save(model.state_dict(), tmp_path / "hf" / "pytorch_model.bin")
        (tmp_path / "hf" / "model.safetensors").unlink()
    shutil.copytree(tmp_path / "hf", tmp_path / "twin")
    soupkit.merge([tmp_path / "hf", tmp_path / "twin"], tmp_path / "soup", to="open_clip")
    soup, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'soup'}")
    soup.eval()
    images = torch.randn(2, 3, 32, 32)
    tokens = torch.randint(0, 900, (3, 16))
    tokens[:, 9] = 999
    with torch.no_grad():
        out = model(pixel_values=images, input_ids=tokens)
        got_image, got_text, _ = soup(images, tokens)
    torch.testing.assert_close(got_image, out.image_embeds, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got_text, out.text_embeds, rtol=1e-4, atol=1e-5)


def clip(seed: int) -> torch.nn.Module:
    import open_clip

    torch.manual_seed(0)
    model = open_clip.CLIP(TINY_MODEL["embed_dim"], dict(TINY_MODEL["vision_cfg"]), dict(TINY_MODEL["text_cfg"]))  # type: ignore[call-overload]
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    images, tokens = torch.randn(2, 3, 16, 16), torch.randint(0, 49000, (3, 8))
    tokens[:, 5] = 49407  # the end of the text
    return images, tokens


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_a_clip_of_open_clip_becomes_one_of_transformers_and_comes_back_bit_for_bit(
    quick_gelu: bool, tmp_path: Path
) -> None:
    import open_clip
    import transformers

    config = {"model_cfg": {**TINY_MODEL, "quick_gelu": quick_gelu}, "preprocess_cfg": PREPROCESS}
    state = {name: tensor.detach() for name, tensor in clip(1).state_dict().items()}
    ref = save(tmp_path / "open_clip", state, config)
    soupkit.merge([ref, ref], tmp_path / "hf", to="transformers")
    soupkit.merge([tmp_path / "hf"] * 2, tmp_path / "back", to="open_clip")
    with open_checkpoint(tmp_path / "back") as back:
        same(back, state)
        assert back.config is not None and config_differences(config, back.config) == {}
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "hf").eval()
    ours, _, transform = open_clip.create_model_and_transforms(f"local-dir:{ref}")
    images, tokens = inputs()
    with torch.no_grad():
        out = theirs(pixel_values=images, input_ids=tokens)
        image, text, scale = ours.eval()(images, tokens)
    torch.testing.assert_close(out.image_embeds, image, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(out.text_embeds, text, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(theirs.logit_scale.exp(), scale)
    picture = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8))
    processor = transformers.CLIPImageProcessor.from_pretrained(tmp_path / "hf")
    pixels = processor(picture, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(pixels, transform(picture), rtol=0, atol=0.05)


@pytest.mark.parametrize("first", ["open_clip", "transformers"])
def test_ingredients_of_both_forms_merge_into_the_first_ones(first: str, tmp_path: Path) -> None:
    states = [{name: t.detach() for name, t in clip(seed).state_dict().items()} for seed in (1, 2)]
    refs = [save(tmp_path / str(i), state, CONFIG) for i, state in enumerate(states)]
    soupkit.merge([refs[1]] * 2, tmp_path / "hf", to="transformers")
    mixed = [refs[0], tmp_path / "hf"] if first == "open_clip" else [tmp_path / "hf", refs[0]]
    result = soupkit.merge(mixed, tmp_path / "mixed")
    assert any(f"in the form of {first}" in note for note in result.notes)
    soupkit.merge(refs if first == "open_clip" else refs[::-1], tmp_path / "plain")
    with open_checkpoint(tmp_path / "mixed") as soup, open_checkpoint(tmp_path / "plain") as expected:
        assert soup.family == first
        same(soup, {name: expected[name].clone() for name in expected})


@pytest.mark.parametrize(
    ("section", "change"),
    [("vision_cfg", {"no_ln_pre": True}), ("text_cfg", {"proj_bias": True}), ("vision_cfg", {"layers": [1, 1, 1, 1]})],
)
def test_a_model_that_transformers_cannot_express_is_refused(
    section: str, change: dict[str, object], tmp_path: Path
) -> None:
    config = json.loads(json.dumps(CONFIG))
    config["model_cfg"][section] |= change
    ref = save(tmp_path / "x", dict(clip(1).state_dict()), config)
    with pytest.raises(ArchitectureError, match="cannot become transformers' CLIPModel") as caught:
        soupkit.merge([ref, ref], tmp_path / "soup", to="transformers")
    assert "--to open_clip" in caught.value.hint and not (tmp_path / "soup").exists()


def test_what_is_no_clip_is_converted_to_nothing(tmp_path: Path) -> None:
    refs = [configured(tmp_path / name, random_state(0), {"model_type": "vit"}) for name in "ab"]
    with pytest.raises(ArchitectureError, match="has no form of open_clip"):
        soupkit.merge(refs, tmp_path / "soup", to="open_clip")
    with pytest.raises(UsageError, match="onnx"):
        soupkit.merge(refs, tmp_path / "soup", to="onnx")


def test_families_without_a_common_form_are_refused(tmp_path: Path) -> None:
    refs = [
        configured(tmp_path / "a", random_state(0), {"model_type": "vit"}),
        configured(tmp_path / "b", random_state(0), {"architecture": "vit_tiny"}),
    ]
    with pytest.raises(ArchitectureError, match="is of the family timm"):
        soupkit.merge(refs, tmp_path / "soup")


@pytest.mark.parametrize("value", ["12", {}, [], None, 0, -3, 1.5, True, 10**30])
@pytest.mark.parametrize("field", ["hidden_size", "num_attention_heads", "intermediate_size", "image_size"])
def test_a_config_with_a_size_that_is_none_is_refused_with_its_name(field: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=field) as caught:
        convert_config({"vision_config": {field: value}}, None, "config.json")
    assert caught.value.where == "config.json, vision_config" and caught.value.hint


@pytest.mark.parametrize(
    "preprocessor",
    [{"image_mean": "x"}, {"image_std": [0.5, "x"]}, {"crop_size": []}, {"resample": {}}, {"do_center_crop": "no"}],
)
def test_preprocessing_of_another_kind_is_refused(preprocessor: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match=next(iter(preprocessor))):
        convert_config({}, preprocessor, "config.json")


def test_half_a_character_in_a_config_is_refused_when_it_is_read(tmp_path: Path) -> None:
    ref = save(tmp_path / "x", random_state(0), CONFIG)
    (ref / "open_clip_config.json").write_text(json.dumps({**CONFIG, "note": "\ud800"}))
    with pytest.raises(CheckpointError, match="no Unicode") as caught:
        open_checkpoint(ref)
    assert caught.value.where.endswith("open_clip_config.json")
