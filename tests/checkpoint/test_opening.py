"""A folder whose config does not describe its tensors is refused before anything is merged; honest ones never are."""

import json
import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file

import soupkit
from soupkit.checkpoint import apart as apart_module
from soupkit.checkpoint import opening
from soupkit.checkpoint.apart import Asked, apart
from soupkit.checkpoint.formats import known_fields, transformers_loading
from soupkit.checkpoint.formats.loading import Shapes
from soupkit.errors import ArchitectureError
from tests.conftest import CONFIG, save

State = dict[str, torch.Tensor]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
TEXT = {"vocab_size": 99, "max_position_embeddings": 16, **SIZES}
IMAGE = {"image_size": 32, "patch_size": 8, **SIZES}
SEQUENCES = {
    "vocab_size": 99, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "pad_token_id": 0,
}  # fmt: skip
SPEECH = {
    "vocab_size": 32, "conv_dim": (16, 16), "conv_kernel": (3, 3), "conv_stride": (2, 2), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, **SIZES,
}  # fmt: skip
# The class, and its config's.
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "clip": ("CLIPModel", "CLIPConfig", {"text_config": TEXT, "vision_config": IMAGE, "projection_dim": 16}),
    "clip_image": ("CLIPVisionModelWithProjection", "CLIPVisionConfig", IMAGE),
    "siglip": ("SiglipModel", "SiglipConfig", {"text_config": TEXT, "vision_config": IMAGE}),
    "vit": ("ViTForImageClassification", "ViTConfig", {"num_labels": 5, **IMAGE}),
    "deit": ("DeiTForImageClassificationWithTeacher", "DeiTConfig", {"num_labels": 5, **IMAGE}),
    "beit": ("BeitForImageClassification", "BeitConfig", {"use_relative_position_bias": True, **IMAGE}),
    "dinov2": ("Dinov2Model", "Dinov2Config", {**IMAGE, "mlp_ratio": 2}),
    "convnext": ("ConvNextModel", "ConvNextConfig", {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}),
    "bert": ("BertForMaskedLM", "BertConfig", TEXT),
    "roberta": ("RobertaForSequenceClassification", "RobertaConfig", TEXT),
    "mpnet": ("MPNetModel", "MPNetConfig", TEXT),
    "albert": ("AlbertForMaskedLM", "AlbertConfig", {"embedding_size": 16, **TEXT}),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4}),
    "t5": (
        "T5ForConditionalGeneration", "T5Config",
        {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
    ),
    "llama": ("LlamaForCausalLM", "LlamaConfig", {**TEXT, "tie_word_embeddings": False}),
    "tied_llama": ("LlamaForCausalLM", "LlamaConfig", {**TEXT, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", {"num_key_value_heads": 2, **TEXT}),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", {"num_key_value_heads": 2, "num_local_experts": 4, **TEXT}),
    "bart": ("BartForConditionalGeneration", "BartConfig", SEQUENCES),
    "whisper": (
        "WhisperForConditionalGeneration", "WhisperConfig",
        {**SEQUENCES, "num_mel_bins": 8, "max_source_positions": 20, "max_target_positions": 20},
    ),
    "wav2vec2": ("Wav2Vec2ForCTC", "Wav2Vec2Config", SPEECH),
}  # fmt: skip
SHARES_ITS_LAYERS = {"albert"}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def saved(kind: str, directory: Path) -> tuple[dict[str, Any], State]:
    """The config and the tensors of a model as transformers saves it."""
    name, config, sizes = KINDS[kind]
    torch.manual_seed(0)
    getattr(transformers, name)(getattr(transformers, config)(**sizes)).save_pretrained(directory)
    return json.loads((directory / "config.json").read_text()), load_file(directory / "model.safetensors")


def shapes(state: State) -> Shapes:
    return {name: (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)) for name, tensor in state.items()}


def test_what_transformers_saves_fits_its_config_and_what_is_changed_does_not(kind: str, tmp_path: Path) -> None:
    config, state = saved(kind, tmp_path / "x")

    def found(state: State) -> Any:
        answer = apart(transformers_loading.loading, config, shapes(state))
        assert not isinstance(answer, str), answer
        return answer

    honest = found(state)
    assert honest and not honest.new and not honest.unused
    assert not found({name: t[..., : (t.shape[-1] + 1) // 2] if t.ndim else t for name, t in state.items()})
    if kind in SHARES_ITS_LAYERS:
        return
    second = [name for name in state if re.match(r"[^.]+(\.[^.\d][^.]*)*\.1\.", name)]
    fewer = found({name: t for name, t in state.items() if name not in second})
    assert not fewer and fewer.missing and not fewer.reshaped
    assert not found({**state, **{name.replace(".1.", ".9.", 1): state[name] for name in second}})


def gamma_and_beta(state: State) -> State:
    return {re.sub("LayerNorm.weight$", "LayerNorm.gamma", re.sub("LayerNorm.bias$", "LayerNorm.beta", name)): t
            for name, t in state.items()}  # fmt: skip


def without(pattern: str) -> Callable[[State], State]:
    return lambda state: {name: t for name, t in state.items() if not re.search(pattern, name)}


def without_prefix(prefix: str) -> Callable[[State], State]:
    return lambda state: {name.removeprefix(prefix): t for name, t in state.items()}


def with_tensors(**added: torch.Tensor) -> Callable[[State], State]:
    return lambda state: {**state, **{name.replace("__", "."): t for name, t in added.items()}}


def old_weight_norm(state: State) -> State:
    old = {"original0": "weight_g", "original1": "weight_v"}
    return {
        re.sub(r"parametrizations\.weight\.(original\d)", lambda match: old[match[1]], name): t
        for name, t in state.items()
    }


MASK = torch.ones(1, 1, 16, 16, dtype=torch.bool)
# What folders hold that older versions wrote, or that were saved for another task.
ODD: list[tuple[str, Callable[[State], State]]] = [
    ("bert", gamma_and_beta),
    ("bert", without("^cls")),
    ("bert", without_prefix("bert.")),
    ("bert", with_tensors(bert__embeddings__position_ids=torch.arange(16)[None])),
    ("bert", with_tensors(cls__seq_relationship__weight=torch.ones(2, 32), bert__pooler__dense__bias=torch.ones(32))),
    ("roberta", with_tensors(roberta__embeddings__position_ids=torch.arange(16)[None])),
    ("roberta", without("^classifier")),
    ("mpnet", without("^pooler")),
    ("gpt2", with_tensors(transformer__h__0__attn__bias=MASK, transformer__h__1__attn__masked_bias=torch.tensor(-1e4))),
    ("gpt2", without_prefix("transformer.")),
    ("t5", with_tensors(lm_head__weight=torch.ones(99, 32), decoder__embed_tokens__weight=torch.ones(99, 32))),
    ("llama", with_tensors(model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(4))),
    ("llama", without("^lm_head")),
    ("llama", without_prefix("model.")),
    ("tied_llama", with_tensors(lm_head__weight=torch.ones(99, 32))),
    ("wav2vec2", old_weight_norm),
    ("wav2vec2", without("masked_spec_embed")),
    ("dinov2", without("mask_token")),
    ("vit", without("^classifier")),
    ("clip", with_tensors(text_model__embeddings__position_ids=torch.arange(16)[None])),
    ("whisper", with_tensors(proj_out__weight=torch.ones(99, 32))),
]


@pytest.mark.parametrize(("kind", "change"), ODD)
def test_folders_of_other_versions_and_tasks_are_merged(
    kind: str, change: Callable[[State], State], tmp_path: Path
) -> None:
    config, state = saved(kind, tmp_path / "x")
    assert apart(transformers_loading.loading, config, shapes(change(state)))
    for i in range(2):
        moved = {n: t * (1 + i / 100) if t.is_floating_point() else t for n, t in change(state).items()}
        (tmp_path / str(i)).mkdir()
        (tmp_path / str(i) / "config.json").write_text(json.dumps(config))
        save_file({name: t.contiguous() for name, t in moved.items()}, tmp_path / str(i) / "model.safetensors")
    assert soupkit.merge([tmp_path / "0", tmp_path / "1"], tmp_path / "soup").status == "written"
    assert not any(
        "is not known" in note for note in soupkit.merge([tmp_path / "0", tmp_path / "1"], tmp_path / "soup").notes
    )
    getattr(transformers, KINDS[kind][0]).from_pretrained(tmp_path / "soup")


def two(tmp_path: Path, change: dict[str, Any], kind: str = "bert") -> list[Path]:
    """Two folders of one model, with the same change to their configs."""
    refs = []
    for i in range(2):
        config, state = saved(kind, tmp_path / str(i))
        (tmp_path / str(i) / "config.json").write_text(json.dumps({**config, **change}))
        save_file({n: t + i / 100 for n, t in state.items()}, tmp_path / str(i) / "model.safetensors")
        refs.append(tmp_path / str(i))
    return refs


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_size": 64}, ["[99, 32] in model.safetensors instead of [99, 64]", "hidden_size: 64"]),
        ({"vocab_size": 100}, ["[99, 32] in model.safetensors instead of [100, 32]", "vocab_size: 100"]),
        ({"num_hidden_layers": 3}, ["16 tensors missing (bert.encoder.layer.2."]),
        ({"num_hidden_layers": 1}, ["16 unexpected (bert.encoder.layer.1.", "in model.safetensors"]),
    ],
)
def test_a_config_of_other_sizes_is_refused_and_nothing_is_written(
    change: dict[str, Any], said: list[str], tmp_path: Path
) -> None:
    refs = two(tmp_path, change)
    with pytest.raises(ArchitectureError, match="does not describe the weights beside it") as caught:
        soupkit.merge(refs, tmp_path / "soup")
    assert caught.value.where == str(refs[0] / "config.json") and "transformers" in caught.value.hint
    assert all(words in caught.value.what for words in said)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]


def test_what_the_library_begins_anew_or_leaves_out_is_said(tmp_path: Path) -> None:
    refs = two(tmp_path, {"architectures": ["BertForSequenceClassification"]})
    notes = soupkit.merge(refs, tmp_path / "soup").notes
    assert any("begins anew what the weights lack: bert.pooler.dense" in note for note in notes)
    assert any("has no use for cls.predictions" in note for note in notes)


OWN_CODE = {"architectures": ["OwnModel"], "model_type": "own", "auto_map": {"AutoModel": "modeling_own.OwnModel"}}


def test_a_model_of_its_own_code_is_held_against_what_its_config_says(tmp_path: Path) -> None:
    refs = two(tmp_path, OWN_CODE, "qwen2")
    (tmp_path / "0" / "modeling_own.py").write_text("raise SystemExit('code of the folder was run')")
    notes = soupkit.merge(refs, tmp_path / "soup").notes
    assert any("is not known (transformers has no class ['OwnModel'])" in note for note in notes)


@pytest.mark.parametrize("change", [{"num_hidden_layers": 3}, {"hidden_size": 64}, {"vocab_size": 100}])
def test_a_model_of_its_own_code_with_other_sizes_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ArchitectureError, match="does not describe the weights"):
        soupkit.merge(two(tmp_path, {**OWN_CODE, **change}, "qwen2"), tmp_path / "soup")


def test_what_a_config_says_in_words_fits_what_transformers_saves(kind: str, tmp_path: Path) -> None:
    config, state = saved(kind, tmp_path / "x")
    assert known_fields.loading(config, shapes(state))
    padded = {n: torch.cat([t, t[:29]]) if t.shape[:1] == (99,) else t for n, t in state.items()}
    assert known_fields.loading(config, shapes(padded)), "embeddings may have room for more tokens"


def test_a_timm_folder_with_another_count_of_classes_or_another_width_is_refused(tmp_path: Path) -> None:
    for i in range(2):
        torch.manual_seed(i)
        model = timm.create_model("resnet10t", num_classes=5)
        timm.models.save_for_hf(model, tmp_path / str(i), safe_serialization=True)
    refs = [tmp_path / "0", tmp_path / "1"]
    assert soupkit.merge(refs, tmp_path / "soup").status == "written"
    for change, said in [({"num_classes": 7}, "fc.weight"), ({"architecture": "resnet14t"}, "layer1.0.conv")]:
        for ref in refs:
            config = json.loads((ref / "config.json").read_text())
            (ref / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(ArchitectureError, match=re.escape(said)) as caught:
            soupkit.merge(refs, tmp_path / "other")
        assert caught.value.where == str(refs[0] / "config.json") and not (tmp_path / "other").exists()


def test_an_open_clip_folder_of_a_config_of_its_own_is_held_against_it(tiny_clips: list[Path], tmp_path: Path) -> None:
    refs = []
    for i, source in enumerate(tiny_clips[:2]):
        config = json.loads(json.dumps(CONFIG))
        config["model_cfg"]["text_cfg"]["vocab_size"] = 49409
        refs.append(save(tmp_path / str(i), load_file(source / "open_clip_model.safetensors"), config))
    with pytest.raises(ArchitectureError, match=r"token_embedding.weight \[49408, .* instead of \[49409, "):
        soupkit.merge(refs, tmp_path / "soup")


def hangs(_: object) -> None:
    import time

    time.sleep(60)


def reaches_out(_: object) -> str:
    import urllib.request

    return str(urllib.request.urlopen("http://127.0.0.1:9"))


def dies(_: object) -> None:
    import os

    os._exit(3)


def answers(value: object) -> object:
    print("not an answer")
    return [value]


def test_a_library_that_hangs_dies_or_reaches_for_the_network_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart_module, "_SECONDS", 0.5)
    assert apart(hangs, None) == "the library took more than 0 s"
    monkeypatch.setattr(apart_module, "_SECONDS", 60.0)
    assert "no network here" in str(apart(reaches_out, None))
    assert "was ended" in str(apart(dies, None))
    assert apart(answers, 1) == [1]


def names_of(packages: list[str]) -> list[str]:
    import importlib

    return [importlib.import_module(name).__name__ for name in packages]


def test_packages_that_are_spared_are_imported_only_where_there_is_no_answer_without_them() -> None:
    assert "turtledemo" not in sys.modules
    assert Asked(find_spec_of, ["turtledemo"], ["turtledemo"]).answer() == ["there is none"]
    with closing(Asked(names_of, [["json", "turtledemo"]], ["turtledemo"])) as asked:
        assert asked.answer() == ["json", "turtledemo"]


def find_spec_of(name: str) -> list[str]:
    return ["there is none" if find_spec(name) is None else name]


def test_a_question_that_is_closed_ends_its_process() -> None:
    asked = Asked(hangs, [None])
    assert asked._fork is not None
    pid = asked._fork._pid
    assert not asked.is_answered()
    asked.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_an_answer_that_comes_while_the_weights_are_merged_ends_the_merge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = two(tmp_path, {"hidden_size": 64})
    look = opening.ConfigCheck.look
    looks = []

    def slow(check: opening.ConfigCheck) -> None:
        """As if a slab took as long as the library."""
        looks.append(check)
        question = check._open[0]
        while not question.is_answered():
            time.sleep(0.01)
        look(check)

    monkeypatch.setattr(opening.ConfigCheck, "look", slow)
    options = soupkit.RunOptions(threads=1, slab_bytes=64)
    with pytest.raises(ArchitectureError, match="does not describe the weights beside it"):
        soupkit.merge(refs, tmp_path / "soup", options=options)
    assert len(looks) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]


def test_where_processes_cannot_be_forked_an_interpreter_of_its_own_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.fork")
    monkeypatch.setattr(apart_module, "_SECONDS", 280.0)  # each imports what this file imports
    assert apart(answers, 1) == [1]
    assert "no network here" in str(apart(reaches_out, None))
    assert "was ended" in str(apart(dies, None))
