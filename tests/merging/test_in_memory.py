"""Weights in memory merge as files do: the same bits, the same checks, mixed with files, into a folder or a dict."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from soupkit.checkpoint import compare, fingerprint, held, open_checkpoint
from soupkit.errors import ArchitectureError, CheckpointError, UsageError
from soupkit.merging import RunOptions, merge
from tests.conftest import random_state, save

WEIGHTS = "open_clip_model.safetensors"


@pytest.fixture(scope="module")
def states() -> list[dict[str, Tensor]]:
    return [random_state(seed, torch.bfloat16) for seed in range(3)]


@pytest.fixture(scope="module")
def files(states: list[dict[str, Tensor]], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("files")
    return [save(folder / str(i), state) for i, state in enumerate(states)]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[n].dtype == other[n].dtype and one[n].shape == other[n].shape and torch.equal(one[n], other[n]) for n in one
    )


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"weights": [3, 1], "dtype": "float32"},
        {"method": "ties", "base": 2, "parameters": {"density": 0.4}},
        {"method": "task_arithmetic", "base": 2, "parameters": {"lines": 0.5}},
        {"method": "dare_linear", "base": 2},
        {"method": "slerp"},
        {"method": "tsv_m", "base": 2},
    ],
    ids=lambda how: how.get("method", "mean"),
)
def test_every_bit_is_that_of_the_files_way(
    how: dict[str, Any], states: list[dict[str, Tensor]], files: list[Path], tmp_path: Path
) -> None:
    base = how.get("base")
    of_files = {**how, "base": files[base]} if base is not None else how
    merge(files[:2], tmp_path / "soup", **of_files)
    want = load_file(tmp_path / "soup" / WEIGHTS)
    in_memory = {**how, "base": states[base]} if base is not None else how
    assert same(merge(states[:2], **in_memory), want)
    small = RunOptions(threads=3, slab_bytes=1 << 16)
    assert same(merge([files[0], states[1]], **in_memory, options=small), want)


def test_weights_in_memory_are_written_to_a_folder_with_their_fingerprints(
    states: list[dict[str, Tensor]], files: list[Path], tmp_path: Path
) -> None:
    of_files = merge(files[:2], tmp_path / "a")
    result = merge(states[:2], tmp_path / "b")
    assert same(load_file(tmp_path / "a" / WEIGHTS), load_file(tmp_path / "b" / WEIGHTS))
    assert result.fingerprint == of_files.fingerprint
    assert [i["ref"] for i in result.ingredients] == ["memory:ingredients[0]", "memory:ingredients[1]"]
    assert [i["fingerprint"] for i in result.ingredients] == [i["fingerprint"] for i in of_files.ingredients]
    again = merge(states[:2], tmp_path / "b")
    assert again.status == "unchanged"


def test_a_module_is_its_state_dict(tiny_clips: list[Path]) -> None:
    import open_clip

    models = [open_clip.create_model(f"local-dir:{path}") for path in tiny_clips[:2]]
    soup = merge(models)
    assert same(soup, merge([m.state_dict() for m in models]))
    models[0].load_state_dict(soup)  # strictly


def test_a_module_of_transformers_keeps_its_family(tmp_path: Path) -> None:
    from transformers import AutoModel, BertConfig, BertModel

    config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24)
    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        models.append(BertModel(config))
    models[1].save_pretrained(tmp_path / "b")
    result = merge([models[0], tmp_path / "b"], tmp_path / "soup")
    opened = AutoModel.from_pretrained(tmp_path / "soup")
    for name, tensor in opened.state_dict().items():
        mean = sum(m.state_dict()[name].double() for m in models) / 2
        torch.testing.assert_close(tensor, mean.float(), rtol=1e-6, atol=1e-9)
    assert result.status == "written"


def test_tied_transposed_and_empty_tensors(tmp_path: Path) -> None:
    def model(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        made = nn.Sequential(OrderedDict(one=nn.Linear(5, 5, bias=False), two=nn.Linear(5, 5, bias=False)))
        made.two.weight = made.one.weight
        made.register_buffer("none", torch.empty(0, 3))
        made.register_buffer("turned", torch.randn(4, 6).t())
        made.register_buffer("every_other", torch.randn(8)[::2])
        return made

    one, two = model(0), model(1)
    soup = merge([one, two])
    for name, tensor in one.state_dict().items():
        mean = (tensor.double() + two.state_dict()[name].double()) / 2
        torch.testing.assert_close(soup[name], mean.float(), rtol=1e-6, atol=1e-8)
    with held(one) as ref, open_checkpoint(ref) as opened:
        assert opened.tensors["one.weight"] == opened.tensors["two.weight"]
        assert torch.equal(opened["turned"], one.state_dict()["turned"])


def test_the_dict_is_ones_own(states: list[dict[str, Tensor]]) -> None:
    before = [{name: tensor.clone() for name, tensor in state.items()} for state in states]
    soup = merge(states)
    for tensor in soup.values():
        tensor.zero_()
    assert all(same(state, old) for state, old in zip(states, before, strict=True))


def test_checks_are_those_of_files(states: list[dict[str, Tensor]], tmp_path: Path) -> None:
    spoilt = {**states[1], "text_projection": torch.full((33, 12), float("nan"), dtype=torch.bfloat16)}
    with pytest.raises(CheckpointError, match="non-finite") as caught:
        merge([states[0], spoilt], tmp_path / "soup")
    assert "memory:ingredients[1], tensor 'text_projection'" in caught.value.where
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CheckpointError, match="non-finite"):
        merge([states[0], spoilt])
    assert merge([states[0], spoilt], allow_nonfinite=True)["text_projection"].isnan().all()
    with pytest.raises(ArchitectureError, match="1 tensor missing"):
        merge([states[0], {n: t for n, t in states[1].items() if n != "logit_scale"}])
    counted = [{**state, "ids": torch.arange(3) + i} for i, state in enumerate(states[:2])]
    with pytest.raises(ArchitectureError, match="other integers"):
        merge(counted)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"epoch": 3, "state_dict": {}}, "is int, and no tensor"),
        ({"state_dict": {"w": torch.zeros(2)}}, "is no state dict"),
        ({"w": torch.zeros(2, dtype=torch.complex64)}, "has the dtype torch.complex64"),
        ({"w": torch.zeros(2, 2).to_sparse()}, "is no dense tensor"),
        ({"w": torch.zeros(2, device="meta")}, "without values"),
        ({}, "holds no tensors"),
    ],
)
def test_what_is_no_state_dict_is_named(weights: Any, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        merge([weights, weights])


def test_what_takes_a_reference_takes_weights_that_are_held(states: list[dict[str, Tensor]], files: list[Path]) -> None:
    with held(states[0], "mine") as ref:
        comparison = compare([ref, files[1]])
        assert comparison.refs[0] == "memory:mine" and comparison.mergeable


def test_odd_calls(states: list[dict[str, Tensor]], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a list"):
        merge(states[0])  # type: ignore[call-overload]
    with pytest.raises(UsageError, match="no use without an output"):
        merge(states, options=RunOptions(dry_run=True))
    with held(states[0], "a") as one, held(states[0], "a") as other:
        assert one != other
    with pytest.raises(CheckpointError, match="does not exist"):
        open_checkpoint(one)


def test_a_write_meanwhile_is_seen(states: list[dict[str, Tensor]]) -> None:
    mine = {name: tensor.clone() for name, tensor in states[0].items()}
    with held(mine) as ref, open_checkpoint(ref) as opened:
        fingerprint(opened)
        mine["logit_scale"].add_(1)
        with pytest.raises(CheckpointError, match="was written to"):
            fingerprint(opened)
