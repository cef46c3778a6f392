"""Soups of other families come out in them: their own libraries open them, with the mean of the weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers

import soupkit
from soupkit.checkpoint import fingerprint, open_checkpoint
from soupkit.errors import ArchitectureError, CheckpointError
from tests.checkpoint.formats.samples import configured, diffusers_pipeline
from tests.conftest import random_state

State = dict[str, torch.Tensor]
LLAMA = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VIT = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "image_size": 16, "patch_size": 8,
}  # fmt: skip
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**LLAMA, tie_word_embeddings=False),
    "tied_llama": lambda: transformers.LlamaConfig(**LLAMA, tie_word_embeddings=True),
    "vit": lambda: transformers.ViTConfig(**VIT),
    "bert": lambda: transformers.BertConfig(**{**LLAMA, "max_position_embeddings": 8}),
}
CLASSES = {
    "llama": transformers.AutoModelForCausalLM,
    "tied_llama": transformers.AutoModelForCausalLM,
    "vit": transformers.AutoModelForImageClassification,
    "bert": transformers.AutoModelForMaskedLM,
}


def mean_of(models: list[torch.nn.Module]) -> State:
    states = [model.state_dict() for model in models]
    return {
        name: (sum(s[name].double() for s in states) / len(states)).to(states[0][name].dtype)
        if states[0][name].is_floating_point()
        else states[0][name]
        for name in states[0]
    }


def assert_same(model: torch.nn.Module, state: State) -> None:
    loaded = model.state_dict()
    assert loaded.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(loaded[name], tensor), name


@pytest.fixture(params=CONFIGS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("sharded", [False, True])
def test_a_soup_of_transformers_is_opened_by_transformers(kind: str, sharded: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    models = [CLASSES[kind].from_config(CONFIGS[kind]()) for _ in range(2)]
    for name, model in zip("ab", models, strict=True):
        model.save_pretrained(tmp_path / name, **({"max_shard_size": "4KB"} if sharded else {}))
        (tmp_path / name / "tokenizer.json").write_text("{}")
        (tmp_path / name / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "run": name}))
        (tmp_path / name / "README.md").write_text(name)
    soupkit.merge([tmp_path / "a", tmp_path / "b"], tmp_path / "soup", max_shard_bytes=16384 if sharded else None)
    assert (tmp_path / "soup" / "model.safetensors.index.json").is_file() == sharded
    for name in ("config.json", "tokenizer.json", "generation_config.json"):
        assert (tmp_path / "soup" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()
    assert not (tmp_path / "soup" / "README.md").exists()
    assert_same(CLASSES[kind].from_pretrained(tmp_path / "soup"), mean_of(models))
    with open_checkpoint(tmp_path / "soup") as soup, open_checkpoint(tmp_path / "a") as one:
        assert soup.family == "transformers" and soup.model == one.model == type(models[0]).__name__
        assert set(soup) == set(one)


def test_the_same_merge_again_finds_its_soup(tmp_path: Path) -> None:
    refs = vit_folders(tmp_path, {})
    assert soupkit.merge(refs, tmp_path / "soup").status == "written"
    assert soupkit.merge(refs, tmp_path / "soup").status == "unchanged"


def test_tied_weights_that_one_ingredient_writes_twice_are_written_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    models = [CLASSES["tied_llama"].from_config(CONFIGS["tied_llama"]()) for _ in range(2)]
    for name, model in zip("ab", models, strict=True):
        model.save_pretrained(tmp_path / name)
    torch.save(models[1].state_dict(), tmp_path / "b" / "pytorch_model.bin")
    (tmp_path / "b" / "model.safetensors").unlink()
    soupkit.merge([tmp_path / "b", tmp_path / "a"], tmp_path / "soup")
    assert_same(CLASSES["tied_llama"].from_pretrained(tmp_path / "soup"), mean_of(models))


def test_a_soup_of_timm_is_opened_by_timm(tmp_path: Path) -> None:
    torch.manual_seed(0)
    models = [timm.create_model("resnet10t", num_classes=5) for _ in range(2)]
    for name, model in zip("ab", models, strict=True):
        timm.models.save_for_hf(model, tmp_path / name, model_config={"num_classes": 5}, safe_serialization=True)
    result = soupkit.merge([tmp_path / "a", tmp_path / "b"], tmp_path / "soup")
    assert any("batch normalisation" in note for note in result.notes)
    loaded = timm.create_model(f"local-dir:{tmp_path / 'soup'}", pretrained=True)
    assert_same(loaded, mean_of(models))
    assert loaded.num_classes == 5


def test_a_model_of_a_pipeline_is_named_after_a_colon(tmp_path: Path) -> None:
    refs = []
    for i, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        refs.append(f"{diffusers_pipeline(tmp_path / name, random_state(i))}:unet")
    soupkit.merge(refs, tmp_path / "soup")
    names = {path.name for path in (tmp_path / "soup").iterdir()}
    assert names == {"diffusion_pytorch_model.safetensors", "config.json", "soup.json"}
    with pytest.raises(CheckpointError, match="has no part 'vae'") as caught:
        open_checkpoint(refs[0].replace(":unet", ":vae"))
    assert "unet" in caught.value.hint


def vit_folders(tmp_path: Path, change: dict[str, Any]) -> list[Path]:
    """Two folders of a ViTModel; the config of the second has a change."""
    torch.manual_seed(0)
    state = transformers.ViTModel(CONFIGS["vit"]()).state_dict()
    config = {"model_type": "vit", "architectures": ["ViTModel"], **VIT, "transformers_version": "5.0"}
    return [
        configured(tmp_path / "a", state, config),
        configured(tmp_path / "b", {n: t + 0.01 for n, t in state.items()}, {**config, **change}),
    ]


@pytest.mark.parametrize(
    "change",
    [{"transformers_version": "4.1"}, {"hidden_dropout_prob": 0.3}, {"hidden_act": "gelu"}, {"dtype": "float16"}],
)
def test_configs_that_build_the_same_model_agree(change: dict[str, Any], tmp_path: Path) -> None:
    assert soupkit.merge(vit_folders(tmp_path, change), tmp_path / "soup").status == "written"


@pytest.mark.parametrize("change", [{"hidden_act": "relu"}, {"layer_norm_eps": 1e-3}, {"id2label": {"0": "cat"}}])
def test_configs_that_build_another_model_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ArchitectureError, match=next(iter(change))) as caught:
        soupkit.merge(vit_folders(tmp_path, change), tmp_path / "soup")
    assert caught.value.where == str(tmp_path / "b" / "config.json") and not (tmp_path / "soup").exists()


def test_side_files_that_matter_must_be_the_same(tmp_path: Path) -> None:
    refs = vit_folders(tmp_path, {})
    for i, ref in enumerate(refs):
        (ref / "generation_config.json").write_text(json.dumps({"top_k": i}))
    result = soupkit.merge(refs, tmp_path / "soup")
    assert any("generation_config.json differs" in note for note in result.notes)
    for i, ref in enumerate(refs):
        (ref / "tokenizer.json").write_text(json.dumps({"version": i}))
    with pytest.raises(ArchitectureError, match="not the same file"):
        soupkit.merge(refs, tmp_path / "other")


def test_a_clip_of_transformers_keeps_its_form_and_is_scored_in_open_clip_s(tmp_path: Path) -> None:
    tower = {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**tower, "vocab_size": 100, "max_position_embeddings": 8},
        vision_config={**tower, "image_size": 16, "patch_size": 8},
        projection_dim=12,
    )
    torch.manual_seed(0)
    models = [transformers.CLIPModel(config) for _ in range(2)]
    for name, model in zip("ab", models, strict=True):
        model.save_pretrained(tmp_path / name)
    result = soupkit.merge([tmp_path / "a", tmp_path / "b"], tmp_path / "soup")
    assert_same(transformers.CLIPModel.from_pretrained(tmp_path / "soup"), mean_of(models))
    with open_checkpoint(tmp_path / "soup") as soup:
        assert "visual.conv1.weight" in soup and "vision_model.embeddings.class_embedding" in soup.as_written
        assert soup.config is not None
        assert fingerprint(soup).value == fingerprint(soup.as_written).value == result.fingerprint
