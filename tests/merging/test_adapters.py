"""Adapters merged among themselves, and into their base: the products are averaged, and never the factors."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from soupkit.checkpoint import held, open_checkpoint
from soupkit.errors import ArchitectureError, CheckpointError, StorageError, UsageError
from soupkit.merging import RunOptions, merge
from soupkit.merging.soup_directory import SoupDocument

SHAPES = {"layers.0.proj": (10, 6), "layers.1.proj": (10, 6), "out": (6, 6)}


def adapter(folder: Path, seed: int, rank: int = 2, dtype: torch.dtype = torch.float32, **config: Any) -> Path:
    """Write a LoRA as PEFT saves it."""
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for module, (rows, columns) in SHAPES.items():
        a, b = (torch.randn(shape, generator=generator).to(dtype) for shape in ((rank, columns), (rows, rank)))
        factors |= {f"base_model.model.{module}.lora_A.weight": a, f"base_model.model.{module}.lora_B.weight": b}
    folder.mkdir(parents=True)
    save_file(factors, folder / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "base_model_name_or_path": "org/base", "r": rank, "lora_alpha": 3} | config
    (folder / "adapter_config.json").write_text(json.dumps(said | {"target_modules": ["proj", "out"]}))
    return folder


def products(folder: Path) -> dict[str, Tensor]:
    """Each module's update in float64, by the config's words."""
    state = load_file(folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    updates = {}
    for module in SHAPES:
        a, b = (state[f"base_model.model.{module}.lora_{side}.weight"].double() for side in "AB")
        updates[module] = config["lora_alpha"] / (len(a) ** 0.5 if config.get("use_rslora") else len(a)) * (b @ a)
    return updates


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("adapters")
    return [adapter(root / "a", 0, rank=2), adapter(root / "b", 1, rank=3, use_rslora=True, dtype=torch.bfloat16)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = torch.Generator().manual_seed(9)
    state = {f"{module}.weight": torch.randn(shape, generator=generator) for module, shape in SHAPES.items()}
    folder = tmp_path_factory.mktemp("base")
    save_file(state | {"bias": torch.randn(4, generator=generator)}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("weights", [None, [3, 1]])
def test_side_by_side_the_sum_is_exact(pair: list[Path], weights: list[float] | None, tmp_path: Path) -> None:
    result = merge(pair, tmp_path / "soup", weights=weights)
    one, other = (products(folder) for folder in pair)
    share = 0.75 if weights else 0.5
    for module, product in products(tmp_path / "soup").items():
        want = share * one[module] + (1 - share) * other[module]
        torch.testing.assert_close(product, want, rtol=1e-6, atol=1e-6)
    config = json.loads((tmp_path / "soup" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (5, 5, False)
    document = SoupDocument.read(tmp_path / "soup")
    assert document is not None and document.method == "concatenation" and document.approximation is None
    assert [i["weight"] for i in result.ingredients] == [share, 1 - share]


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_to_a_rank_it_is_the_nearest_and_says_how_near(pair: list[Path], rank: int, tmp_path: Path) -> None:
    merge(pair, tmp_path / "soup", rank=rank)
    one, other = (products(folder) for folder in pair)
    lost = whole = 0.0
    for module, product in products(tmp_path / "soup").items():
        exact = (one[module] + other[module]) / 2
        u, s, vt = torch.linalg.svd(exact, full_matrices=False)
        torch.testing.assert_close(product, (u[:, :rank] * s[:rank]) @ vt[:rank], rtol=1e-5, atol=1e-5)
        lost, whole = lost + float((product - exact).square().sum()), whole + float(exact.square().sum())
    document = SoupDocument.read(tmp_path / "soup")
    assert document is not None and document.approximation is not None
    assert document.approximation.error == pytest.approx((lost / whole) ** 0.5, abs=1e-6)
    assert json.loads((tmp_path / "soup" / "adapter_config.json").read_text())["r"] == min(rank, 5)


def test_in_its_base_it_is_a_model_block_by_block(pair: list[Path], base: Path, tmp_path: Path) -> None:
    want = {
        module: load_file(base / "model.safetensors")[f"{module}.weight"].double()
        + sum(products(folder)[module] for folder in pair) / 2
        for module in SHAPES
    }
    fingerprints = set()
    for i, how in enumerate([RunOptions(), RunOptions(threads=3, slab_bytes=1)]):
        result = merge(pair, tmp_path / f"soup{i}", base=base, options=how)
        fingerprints.add((result.fingerprint, *(i["fingerprint"] for i in result.ingredients)))
        soup = load_file(tmp_path / f"soup{i}" / "model.safetensors")
        for module, tensor in want.items():
            torch.testing.assert_close(soup[f"{module}.weight"].double(), tensor, rtol=1e-6, atol=1e-6)
    assert len(fingerprints) == 1
    refs = [f"{base}+{folder}" for folder in pair]
    assert merge(refs, tmp_path / "soup1").status == "unchanged"
    assert json.loads((tmp_path / "soup0" / "soup.json").read_text())["base"] is None


def test_a_base_that_is_merged_with_too(pair: list[Path], base: Path, tmp_path: Path) -> None:
    merge(pair, tmp_path / "soup", method="task_arithmetic", base=base, parameters={"scale": 0.5})
    soup, origin = (load_file(folder / "model.safetensors") for folder in (tmp_path / "soup", base))
    for module in SHAPES:
        want = origin[f"{module}.weight"].double() + sum(products(folder)[module] for folder in pair) / 2
        torch.testing.assert_close(soup[f"{module}.weight"].double(), want, rtol=1e-6, atol=1e-6)
    assert torch.equal(soup["bias"], origin["bias"])


def test_beside_whole_models_and_weights_in_memory(pair: list[Path], base: Path) -> None:
    origin = load_file(base / "model.safetensors")
    soup = merge([f"{base}+{pair[0]}", base, {name: tensor + 3 for name, tensor in origin.items()}])
    want = origin["out.weight"].double() + products(pair[0])["out"] / 3 + 1
    torch.testing.assert_close(soup["out.weight"].double(), want, rtol=1e-6, atol=1e-6)
    with held(origin) as ref, open_checkpoint(f"{ref}+{pair[0]}") as opened:
        torch.testing.assert_close(
            opened.read("out.weight").double(), origin["out.weight"] + products(pair[0])["out"], rtol=1e-6, atol=1e-6
        )


def test_blocks_leave_no_trace(tmp_path: Path) -> None:
    """A weight of more than one block of rows reads alike from any byte on, in any dtype, DoRA's lengths included."""
    from soupkit.checkpoint import fingerprint

    for dtype in (torch.bfloat16, torch.float32):
        state = {"w.weight": torch.randn(700, 300, generator=torch.Generator().manual_seed(1)).to(dtype)}
        folder = tmp_path / str(dtype)
        folder.mkdir()
        save_file(state, folder / "model.safetensors")
        a, b = torch.randn(4, 300), torch.randn(700, 4)
        (folder / "lora").mkdir()
        save_file(
            {
                "base_model.model.w.lora_A.weight": a,
                "base_model.model.w.lora_B.weight": b,
                "base_model.model.w.lora_magnitude_vector": torch.rand(700),
            },
            folder / "lora" / "adapter_model.safetensors",
        )
        said = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_dora": True}
        (folder / "lora" / "adapter_config.json").write_text(json.dumps(said))
        with open_checkpoint(f"{folder}+{folder / 'lora'}") as opened:
            whole = opened.read("w.weight").view(torch.uint8).reshape(-1).numpy()
            for start, n in ((0, 1), (1, 7), (131_071, 3), (200_001, 100_003)):
                piece = whole[start : start + n].copy()
                piece[:] = 0
                opened.read_into("w.weight", start, piece)
                assert (piece == whole[start : start + n]).all()
            assert fingerprint(opened, threads=1) == fingerprint(opened, threads=3)


def test_adapters_that_differ_in_their_modules(tmp_path: Path) -> None:
    one, other = adapter(tmp_path / "a", 0), adapter(tmp_path / "b", 1, r=2)
    state = load_file(other / "adapter_model.safetensors")
    kept = {n: t for n, t in state.items() if "layers.1" not in n}
    save_file(kept, other / "adapter_model.safetensors")
    config = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["layers.0.proj", "out"]}))
    merge([one, other], tmp_path / "soup")
    said = json.loads((tmp_path / "soup" / "adapter_config.json").read_text())
    assert said["rank_pattern"] == {r"^layers\.1\.proj": 2} and said["r"] == 4
    assert said["target_modules"] == r"(layers\.0\.proj|layers\.1\.proj|out)"
    alone = load_file(tmp_path / "soup" / "adapter_model.safetensors")["base_model.model.layers.1.proj.lora_A.weight"]
    assert torch.equal(
        alone, load_file(one / "adapter_model.safetensors")["base_model.model.layers.1.proj.lora_A.weight"]
    )


def test_again_it_is_there(pair: list[Path], tmp_path: Path) -> None:
    merge(pair, tmp_path / "soup", rank=2)
    assert merge(pair, tmp_path / "soup", rank=2).status == "unchanged"
    with pytest.raises(StorageError, match="holds another soup"):
        merge(pair, tmp_path / "soup", rank=1)
    merge(pair, tmp_path / "soup", rank=1, options=RunOptions(fresh=True))
    assert merge(pair, tmp_path / "planned", options=RunOptions(dry_run=True)).status == "planned"
    assert {p.name for p in tmp_path.iterdir()} == {"soup"}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"peft_type": "IA3"}, "of the kind IA3"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base"),
        ({"layer_replication": [[0, 1]]}, "layer_replication is set"),
        ({"rank_pattern": {"out": 7}}, "its config says 7"),
        ({"use_dora": True}, "no magnitude"),
        ({"alpha_pattern": {"(": 1}}, "is no pattern"),
        ({"lora_alpha": "many"}, "not a number"),
    ],
)
def test_what_cannot_be_read_is_named(config: dict[str, Any], words: str, tmp_path: Path) -> None:
    both = [adapter(tmp_path / name, seed, **config) for seed, name in enumerate("ab")]
    with pytest.raises(CheckpointError, match=words):
        merge(both, tmp_path / "soup")
    assert not (tmp_path / "soup").exists() and not (tmp_path / "soup.partial").exists()


def test_a_folder_that_is_a_model_too_and_one_without_factors(base: Path, tmp_path: Path) -> None:
    both = [adapter(tmp_path / name, seed) for seed, name in enumerate("ab")]
    (both[0] / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="is two things in one"):
        merge(both, tmp_path / "soup")
    (both[0] / "model.safetensors").unlink()
    (both[0] / "adapter_model.safetensors").rename(both[0] / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"and no adapter_model\.safetensors"):
        merge(both, tmp_path / "soup")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_without_its_base(pair: list[Path], base: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="org/base, which is not on this machine") as caught:
        open_checkpoint(pair[0])
    assert caught.value.hint is not None and f"hf-hub:org/base+{pair[0]}" in caught.value.hint
    with pytest.raises(CheckpointError, match="not on this machine"):
        merge([base, pair[0]], tmp_path / "soup")
    save_file({"x.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="has no module"):
        merge(pair, tmp_path / "soup", base=tmp_path / "other.safetensors")
    wide = {f"{module}.weight": torch.zeros(11, 6) for module in SHAPES}
    save_file(wide, tmp_path / "wide.safetensors")
    with pytest.raises(CheckpointError, match="makes 10 x 6, and"):
        merge(pair, tmp_path / "soup", base=tmp_path / "wide.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other.safetensors", "wide.safetensors"]


def test_an_adapter_given_twice_counts_once_with_both_weights(pair: list[Path], tmp_path: Path) -> None:
    merge([pair[0], pair[1], pair[0]], tmp_path / "soup", weights=[1, 1, 2])
    one, other = (products(folder) for folder in pair)
    for module, product in products(tmp_path / "soup").items():
        torch.testing.assert_close(product, 0.75 * one[module] + 0.25 * other[module], rtol=1e-6, atol=1e-6)
    assert json.loads((tmp_path / "soup" / "adapter_config.json").read_text())["r"] == 5


def test_what_cannot_be_asked_of_adapters(pair: list[Path], base: Path, tmp_path: Path) -> None:
    out = tmp_path / "soup"
    with pytest.raises(UsageError, match="merges whole weights"):
        merge(pair, out, method="slerp")
    with pytest.raises(UsageError, match="no use with adapters alone"):
        merge(pair, out, to="open_clip")
    with pytest.raises(UsageError, match="for a soup of adapters alone"):
        merge(pair, out, base=base, rank=2)
    with pytest.raises(UsageError, match="sum to zero"):
        merge(pair, out, weights=[1, -1])
    with pytest.raises(UsageError, match="at least 2 adapters"):
        merge(pair[:1], out)
    other = adapter(tmp_path / "b", 1, base_model_name_or_path="org/other")
    with pytest.raises(ArchitectureError, match="an adapter of org/other"):
        merge([pair[0], other], out)
    spoilt = load_file(pair[0] / "adapter_model.safetensors")
    next(iter(spoilt.values())).fill_(float("nan"))
    save_file(spoilt, other / "adapter_model.safetensors")
    said = json.loads((other / "adapter_config.json").read_text()) | {"base_model_name_or_path": "org/base"}
    (other / "adapter_config.json").write_text(json.dumps(said))
    with pytest.raises(CheckpointError, match="non-finite"):
        merge([pair[0], other], out)
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
