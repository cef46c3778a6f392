"""SigLIP goes from transformers to open_clip and back bit for bit, and computes the same in both."""

import json
from pathlib import Path

import open_clip
import pytest
import timm
import torch
import transformers
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer

from soupkit.checkpoint import open_checkpoint
from soupkit.checkpoint.architecture import candidates_by_shape, named_config
from soupkit.checkpoint.clip_forms import transformers_configs
from soupkit.checkpoint.formats import transformers_siglip as siglip
from soupkit.errors import CheckpointError
from tests.conftest import save

TOWER = {
    "hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_act": "gelu"
}  # fmt: skip
TEXT = {"vocab_size": 64, "max_position_embeddings": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
CONFIG = transformers.SiglipConfig(
    text_config={**TOWER, **TEXT}, vision_config={**TOWER, "image_size": 16, "patch_size": 8}
)
OPEN_CLIP = {
    "embed_dim": 16,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {"image_size": 16, "timm_model_name": "vit_for_a_test", "timm_pool": "map", "timm_proj": "none"},
    "text_cfg": {
        "context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 2, "no_causal_mask": True,
        "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}, "tokenizer_kwargs": {},
    },
}  # fmt: skip


@register_model
def vit_for_a_test(pretrained: bool = False, **options: object) -> VisionTransformer:
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "class_token": False}
    known = {k: v for k, v in options.items() if k in ("num_classes", "global_pool")}
    return VisionTransformer(**{**sizes, "global_pool": "map", **known})  # type: ignore[arg-type]


@pytest.fixture
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    model = transformers.SiglipModel(CONFIG).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def in_open_clip(model: torch.nn.Module, path: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a SiglipModel under open_clip's names, read from a file through the conversion."""
    with open_checkpoint(save(path, model.state_dict())) as checkpoint:
        converted = siglip.convert_tensors(checkpoint.tensors, path)
        back = siglip.to_transformers(converted, path)
        assert back == checkpoint.tensors, "there and back"
        checkpoint.tensors.update(converted)
        return {name: checkpoint.read(name) for name in converted}


def test_a_siglip_of_transformers_computes_the_same_in_open_clip(model: torch.nn.Module, tmp_path: Path) -> None:
    state = in_open_clip(model, tmp_path / "hf")
    path = save(tmp_path / "open_clip", state, {"model_cfg": OPEN_CLIP, "preprocess_cfg": {}})
    ours = open_clip.create_model(f"local-dir:{path}").eval()
    images, tokens = torch.randn(2, 3, 16, 16), torch.randint(3, 64, (3, 8))
    with torch.no_grad():
        theirs = model(pixel_values=images, input_ids=tokens)
        image, text = ours.encode_image(images, normalize=True), ours.encode_text(tokens, normalize=True)
    torch.testing.assert_close(image, theirs.image_embeds, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(text, theirs.text_embeds, rtol=1e-4, atol=1e-5)


def test_the_config_of_open_clip_s_siglip_is_that_of_transformers(model: torch.nn.Module, tmp_path: Path) -> None:
    state = in_open_clip(model, tmp_path / "hf")
    path = save(tmp_path / "open_clip", state, {"model_cfg": OPEN_CLIP, "preprocess_cfg": {"resize_mode": "squash"}})
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.config is not None
        configs = transformers_configs(checkpoint, checkpoint.config)
    (tmp_path / "config.json").write_text(json.dumps(configs["config.json"]))
    rebuilt = transformers.AutoConfig.from_pretrained(tmp_path / "config.json")
    for section in ("text_config", "vision_config"):
        wanted, found = getattr(CONFIG, section).to_dict(), getattr(rebuilt, section).to_dict()
        same = {key for key in wanted if not key.endswith("_token_id")}
        assert {key: found[key] for key in same} == {key: wanted[key] for key in same}
    assert configs["preprocessor_config.json"]["do_center_crop"] is False


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP", "ViT-SO400M-14-SigLIP2"])
def test_the_published_sizes_are_recognised_by_their_shapes(name: str) -> None:
    with torch.device("meta"):
        ours = open_clip.create_model(name, load_weights=False, device="meta")
        shapes = {n: tuple(t.shape) for n, t in ours.state_dict().items()}
    assert name in candidates_by_shape(shapes)
    assert named_config(name)["model_cfg"]["vision_cfg"]["timm_model_name"] in timm.list_models("*siglip*")


def test_a_tensor_that_is_no_siglip_s_is_named(model: torch.nn.Module, tmp_path: Path) -> None:
    path = save(tmp_path / "x", {**model.state_dict(), "classifier.weight": torch.ones(2)})
    with open_checkpoint(path) as checkpoint, pytest.raises(CheckpointError, match="not a tensor of") as caught:
        siglip.convert_tensors(checkpoint.tensors, "x")
    assert "classifier.weight" in caught.value.where
