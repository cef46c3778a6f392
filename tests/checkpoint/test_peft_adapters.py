"""Adapters as PEFT itself saves them: a model with one in it is what PEFT's `merge_and_unload` makes of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from soupkit.checkpoint import open_checkpoint

peft = pytest.importorskip("peft", reason="compares with PEFT")


class Convolved(nn.Module):
    """One of each kind of module that LoRA is for."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.conv = nn.Conv2d(3, 8, 3)
        self.point = nn.Conv2d(8, 4, 1)
        self.square = nn.Linear(6, 6)
        self.wide = nn.Linear(6, 10)
        self.attn = nn.MultiheadAttention(6, 2)
        self.head = nn.Linear(10, 3)


def randomized(model: nn.Module, seed: int) -> nn.Module:
    """Give every parameter of an adapter values, B's zeros included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(1 + 0.1 * noise if "magnitude" in name else 0.3 * noise)
    return model


def saved(folder: Path, build: Callable[[], nn.Module], config: dict[str, Any]) -> dict[str, Tensor]:
    """Save a base and an adapter of it in `folder`; return what PEFT makes of both."""
    torch.manual_seed(0)
    base = build()
    (folder / "base").mkdir(parents=True)
    save_file({n: t.contiguous() for n, t in base.state_dict().items()}, folder / "base" / "model.safetensors")
    model = randomized(peft.get_peft_model(base, peft.LoraConfig(**config)), seed=1)
    model.save_pretrained(folder / "adapter")
    return model.merge_and_unload().state_dict()


def compared(reference: str | Path, want: dict[str, Tensor]) -> None:
    with open_checkpoint(reference) as opened:
        assert set(opened.tensors) == set(want)
        for name, tensor in want.items():
            torch.testing.assert_close(
                opened.read(name), tensor, rtol=2e-6, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}"
            )


LINEAR = ["square", "wide"]
CASES: dict[str, dict[str, Any]] = {
    "linear": {"target_modules": LINEAR, "r": 2, "lora_alpha": 5},
    "rslora": {"target_modules": LINEAR, "r": 4, "lora_alpha": 3, "use_rslora": True},
    "dora": {"target_modules": LINEAR, "r": 2, "use_dora": True},
    "dora of all": {"target_modules": ["wide", "conv", "embed"], "r": 2, "use_dora": True},
    "patterns": {
        "target_modules": LINEAR, "r": 2, "rank_pattern": {"wide": 3}, "alpha_pattern": {"^square": 7}, "lora_alpha": 4
    },
    "bias of B": {"target_modules": LINEAR, "r": 2, "lora_bias": True},
    "all biases": {"target_modules": LINEAR, "r": 2, "bias": "all"},
    "biases of LoRA": {"target_modules": LINEAR, "r": 2, "bias": "lora_only"},
    "convolutions": {"target_modules": ["conv", "point"], "r": 2, "lora_alpha": 3},
    "embedding": {"target_modules": ["embed"], "r": 2, "lora_alpha": 3},
    "a head saved": {"target_modules": LINEAR, "r": 2, "modules_to_save": ["head"]},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_every_kind_is_what_peft_makes_of_it(case: str, tmp_path: Path) -> None:
    want = saved(tmp_path, Convolved, CASES[case])
    compared(f"{tmp_path / 'base'}+{tmp_path / 'adapter'}", want)


def test_attention_with_joined_projections(tmp_path: Path) -> None:
    """By what it computes: PEFT adds the update of `out_proj` twice, in training and in use."""
    torch.manual_seed(0)
    base = Convolved()
    (tmp_path / "base").mkdir()
    save_file(base.state_dict(), tmp_path / "base" / "model.safetensors")
    config = peft.LoraConfig(target_modules=["attn"], r=2, lora_alpha=3)
    model = randomized(peft.get_peft_model(base, config), seed=1).eval()
    model.save_pretrained(tmp_path / "adapter")
    x = torch.randn(4, 2, 6)
    want = model.base_model.model.attn(x, x, x)[0]
    plain = Convolved()
    with open_checkpoint(f"{tmp_path / 'base'}+{tmp_path / 'adapter'}") as opened:
        plain.load_state_dict({name: opened.read(name) for name in opened.tensors})
    torch.testing.assert_close(plain.eval().attn(x, x, x)[0], want, rtol=1e-5, atol=1e-5)


def test_weights_stored_across(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    def build() -> nn.Module:
        return GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=2))

    torch.manual_seed(0)
    build().save_pretrained(tmp_path / "base")
    for dora in (False, True):
        config = peft.LoraConfig(target_modules=["c_attn", "c_proj"], r=2, use_dora=dora, fan_in_fan_out=True)
        base = GPT2LMHeadModel.from_pretrained(tmp_path / "base")
        model = randomized(peft.get_peft_model(base, config), seed=2)
        folder = tmp_path / f"adapter-{dora}"
        model.save_pretrained(folder)
        assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
            tmp_path / "base"
        )
        want = model.merge_and_unload().state_dict()
        with open_checkpoint(folder) as opened:  # in the base that its config names
            assert opened.family == "transformers"
            for name in opened.tensors:
                torch.testing.assert_close(opened.read(name), want[name], rtol=2e-6, atol=2e-6)


def test_a_clip_in_either_form(tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    from soupkit.merging import merge

    common = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**common, "vocab_size": 50, "max_position_embeddings": 8, "eos_token_id": 49},
        vision_config={**common, "image_size": 8, "patch_size": 4}, projection_dim=12,
    )  # fmt: skip
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(tmp_path / "base")
    modules = ["q_proj", "v_proj", "out_proj", "fc1", "visual_projection"]
    folders = []
    for seed in range(2):
        base = CLIPModel.from_pretrained(tmp_path / "base")
        lora = peft.LoraConfig(target_modules=modules, r=2)
        model = randomized(peft.get_peft_model(base, lora), seed=seed)
        model.save_pretrained(tmp_path / f"adapter{seed}")
        model.merge_and_unload().save_pretrained(tmp_path / f"merged{seed}")
        folders.append(tmp_path / f"adapter{seed}")
    merge([tmp_path / "base"] * 1, tmp_path / "as-open-clip", to="open_clip", allow_single=True)
    for base in ("base", "as-open-clip"):
        refs = [f"{tmp_path / base}+{folder}" for folder in folders]
        soup = merge(refs, tmp_path / f"soup-of-{base}", to="transformers")
        whole = merge([tmp_path / "merged0", tmp_path / "merged1"])
        assert soup.status == "written"
        with open_checkpoint(tmp_path / f"soup-of-{base}") as opened:
            own = opened.as_written
            for name, want in whole.items():
                torch.testing.assert_close(own.read(name), want, rtol=2e-6, atol=2e-6)


OF_ALL = {
    "target_modules": ["square", "wide", "conv", "point", "embed", "attn"],
    "lora_alpha": 3,
    "modules_to_save": ["head"],
}


def two_adapters(folder: Path, config: dict[str, Any]) -> tuple[list[Path], Any]:
    """Save two adapters of different ranks; return them, and PEFT's model with both, called one and two."""
    torch.manual_seed(0)
    model = peft.get_peft_model(Convolved(), peft.LoraConfig(r=2, **config), adapter_name="one")
    model.add_adapter("two", peft.LoraConfig(r=3, **config))
    for seed, name in enumerate(("one", "two")):
        model.set_adapter(name)
        randomized(model, seed)
        model.save_pretrained(folder, selected_adapters=[name])
    return [folder / "one", folder / "two"], model


def merged_by_peft(folder: Path) -> dict[str, Tensor]:
    torch.manual_seed(0)
    opened = peft.PeftModel.from_pretrained(Convolved(), folder)
    return opened.merge_and_unload().state_dict()


@pytest.mark.parametrize("rank", [None, 2])
def test_peft_opens_a_soup_of_adapters_of_every_kind_of_module(rank: int | None, tmp_path: Path) -> None:
    from soupkit.merging import merge

    folders, _ = two_adapters(tmp_path, OF_ALL)
    merge(folders, tmp_path / "soup", weights=[1, 3], rank=rank)
    got = merged_by_peft(tmp_path / "soup")
    one, two = (merged_by_peft(folder) for folder in folders)
    torch.manual_seed(0)
    origin = Convolved().state_dict()
    for name, base in origin.items():
        updates = [(state[name] - base).double() for state in (one, two)]
        want = 0.25 * updates[0] + 0.75 * updates[1]
        if rank is not None and want.dim() > 1 and not name.startswith("head"):
            u, s, vt = torch.linalg.svd(want.flatten(1), full_matrices=False)
            want = ((u[:, :rank] * s[:rank]) @ vt[:rank]).view(want.shape)
        torch.testing.assert_close((got[name] - base).double(), want, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: n + m)


def test_the_sums_are_those_of_add_weighted_adapter(tmp_path: Path) -> None:
    from soupkit.merging import merge

    folders, model = two_adapters(tmp_path, {"target_modules": LINEAR, "lora_alpha": 3})
    for kind, rank in (("cat", None), ("svd", 2)):
        merge(folders, tmp_path / kind, weights=[0.7, 0.4], parameters={"normalize": False}, rank=rank)
        model.add_weighted_adapter(["one", "two"], [0.7, 0.4], kind, combination_type=kind, svd_rank=rank)
        model.set_adapter(kind)
        opened = peft.PeftModel.from_pretrained(Convolved(), tmp_path / kind)
        for module in LINEAR:
            want = getattr(model.base_model.model, module).get_delta_weight(kind)
            got = getattr(opened.base_model.model, module).get_delta_weight("default")
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_peft_opens_a_soup_with_biases_and_patterns(tmp_path: Path) -> None:
    from soupkit.merging import merge

    config = {"target_modules": LINEAR, "lora_bias": True, "rank_pattern": {"wide": 5}, "use_rslora": True}
    folders, _ = two_adapters(tmp_path, config)
    merge(folders, tmp_path / "soup")
    got, one, two = (merged_by_peft(folder) for folder in (tmp_path / "soup", *folders))
    for name in ("square.weight", "square.bias", "wide.weight", "wide.bias"):
        torch.testing.assert_close(got[name], (one[name] + two[name]) / 2, rtol=1e-4, atol=1e-5)
