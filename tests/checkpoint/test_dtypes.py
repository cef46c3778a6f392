"""Floats of 8 bits are read, compared, merged and written as those of 16 bits are."""

from pathlib import Path

import numpy as np
import pytest
import torch

import soupkit
from soupkit.checkpoint import open_checkpoint
from soupkit.checkpoint.dtypes import BY_TORCH_NAME, FLOATS, widest
from soupkit.checkpoint.finite import all_finite
from soupkit.checkpoint.lineage import read_float32
from soupkit.errors import ArchitectureError
from tests.conftest import random_state, save

EIGHT = [torch.float8_e4m3fn, torch.float8_e5m2]


def in_torch(name: str) -> torch.dtype:
    return getattr(torch, BY_TORCH_NAME[name].torch_name)


@pytest.mark.parametrize("a", [d.torch_name for d in FLOATS])
@pytest.mark.parametrize("b", [d.torch_name for d in FLOATS])
def test_the_widest_type_holds_every_value_of_both(a: str, b: str) -> None:
    whole = next(d for d in FLOATS if d.name == widest({BY_TORCH_NAME[a].name, BY_TORCH_NAME[b].name}))
    for name in (a, b):
        bits = BY_TORCH_NAME[name].itemsize * 8
        kind = {8: torch.uint8, 16: torch.int16, 32: torch.int32, 64: torch.int64}[bits]
        low, high = (0, 256) if bits == 8 else (-(2**15), 2**15)
        values = (torch.arange(low, high).to(kind) * (1 if bits <= 16 else 2 ** (bits - 16))).view(in_torch(name))
        there_and_back = values.to(in_torch(whole.torch_name)).double()
        assert torch.equal(there_and_back.nan_to_num(7), values.double().nan_to_num(7))


@pytest.mark.parametrize("dtype", EIGHT)
def test_which_of_all_256_values_are_finite_is_what_torch_says(dtype: torch.dtype) -> None:
    bits = torch.arange(256, dtype=torch.uint8)
    name = BY_TORCH_NAME[str(dtype).removeprefix("torch.")].name
    found = [all_finite(np.array([value], dtype=np.uint8), name) for value in range(256)]
    assert found == bits.view(dtype).float().isfinite().tolist()


@pytest.mark.parametrize("dtype", EIGHT)
def test_floats_of_8_bits_are_read_for_comparisons(dtype: torch.dtype, tmp_path: Path) -> None:
    state = random_state(0, dtype)
    with open_checkpoint(save(tmp_path / "x", state)) as checkpoint:
        found = read_float32(checkpoint, "text_projection", 5, 105)
    assert np.array_equal(found, state["text_projection"].flatten()[5:105].float().numpy())


@pytest.mark.parametrize("first", EIGHT)
@pytest.mark.parametrize("second", [*EIGHT, torch.bfloat16])
def test_a_soup_of_floats_of_8_bits_is_the_mean_rounded_once(
    first: torch.dtype, second: torch.dtype, tmp_path: Path
) -> None:
    a, b = random_state(0, first, spread=1.0), random_state(1, second, spread=1.0)
    soupkit.merge([save(tmp_path / "a", a), save(tmp_path / "b", b)], tmp_path / "soup")
    with open_checkpoint(tmp_path / "soup") as soup:
        for name in a:
            mean = ((a[name].double() + b[name].double()) / 2).float()
            merged = soup.read(name)
            assert torch.equal(merged.float(), mean.to(merged.dtype).float())


def test_a_soup_is_written_in_8_bits_when_it_is_asked_for(tmp_path: Path) -> None:
    refs = [save(tmp_path / name, random_state(i)) for i, name in enumerate("ab")]
    soupkit.merge(refs, tmp_path / "soup", dtype="float8_e4m3fn")
    with open_checkpoint(tmp_path / "soup") as soup:
        assert {spec.dtype for spec in soup.tensors.values()} == {"F8_E4M3"}


@pytest.mark.parametrize("scale", ["_scale", "_scale_inv"])
def test_quantized_weights_with_scales_are_not_averaged_apart(scale: str, tmp_path: Path) -> None:
    state = {"a.weight": torch.ones(4, 4).to(torch.float8_e4m3fn), f"a.weight{scale}": torch.ones(1)}
    refs = [save(tmp_path / name, state) for name in "ab"]
    with pytest.raises(ArchitectureError, match="quantized") as caught:
        soupkit.merge(refs, tmp_path / "soup")
    assert caught.value.hint and not (tmp_path / "soup").exists()
