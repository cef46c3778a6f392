"""The plan: which tensors are merged, in which dtype, and in which pieces."""

from contextlib import ExitStack
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from soupkit.checkpoint import open_checkpoint
from soupkit.checkpoint.dtypes import DTYPES
from soupkit.checkpoint.fingerprint import CHUNK_BYTES
from soupkit.errors import ArchitectureError
from soupkit.merging.plan import TensorPlan, cut, plan_tensors
from soupkit.merging.registry import METHODS


def plans_of(states: list[dict[str, torch.Tensor]], root: Path, dtype: str | None = None) -> list[TensorPlan]:
    with ExitStack() as opened:
        sources = []
        for i, state in enumerate(states):
            save_file(state, root / f"{i}.safetensors")
            sources.append(opened.enter_context(open_checkpoint(root / f"{i}.safetensors")))
        return plan_tensors(METHODS["uniform"], sources, None, {name: {} for name in states[0]}, dtype)


def test_floats_are_merged_in_a_wider_accumulator_and_wide_elements_come_first(tmp_path: Path) -> None:
    state = {
        "a": torch.zeros(3, dtype=torch.bfloat16),
        "b": torch.zeros(3, dtype=torch.float64),
        "c": torch.zeros(3, dtype=torch.float32),
        "d": torch.zeros(3, dtype=torch.int64),
    }
    plans = plans_of([state, state], tmp_path)
    assert {p.name for p in plans[:2]} == {"b", "d"} and [p.name for p in plans[2:]] == ["c", "a"]
    assert {p.name: p.accumulator for p in plans} == {
        "a": torch.float32, "b": torch.float64, "c": torch.float64, "d": None,
    }  # fmt: skip


def test_a_counter_of_batches_is_the_first_ingredients_and_need_not_be_the_same(tmp_path: Path) -> None:
    counts = [{"bn.num_batches_tracked": torch.tensor(n), "ids": torch.tensor([1])} for n in (3, 5)]
    assert {p.name: p.must_match for p in plans_of(counts, tmp_path)} == {"bn.num_batches_tracked": False, "ids": True}


def test_tensors_that_cannot_be_averaged_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArchitectureError, match="different kinds of numbers") as caught:
        plans_of([{"x": torch.zeros(2)}, {"x": torch.zeros(2, dtype=torch.int32)}], tmp_path)
    assert caught.value.where == "tensor 'x'" and caught.value.hint


def planned(
    name: str, dtype: str, numel: int, inputs: tuple[str, ...], whole: bool = False, **parameters: Any
) -> TensorPlan:
    accumulator = torch.float32 if DTYPES[dtype].is_float else None
    return TensorPlan(
        name, dtype, (numel,), numel, inputs, accumulator, parameters, False, whole and accumulator is not None
    )


tensors = st.lists(
    st.tuples(
        st.sampled_from(["BF16", "F32", "I64"]), st.integers(0, 3 * CHUNK_BYTES), st.sampled_from(["BF16", "F32"])
    ),
    min_size=1,
    max_size=6,
)


@given(tensors, st.integers(1, 200 << 20), st.booleans())
def test_slabs_hold_every_element_once_and_in_order_whatever_their_size(
    wanted: list[tuple[str, int, str]], slab_bytes: int, whole: bool
) -> None:
    plans = [planned(f"t{i}", dtype, n, (dtype, other), whole) for i, (dtype, n, other) in enumerate(wanted)]
    slabs = cut(plans, slab_bytes)
    segments = [s for slab in slabs for s in slab.segments]
    for plan in plans:
        runs = [(s.start, s.stop) for s in segments if s.tensor is plan]
        assert [start for start, _ in runs] == [0, *(stop for _, stop in runs)][: len(runs)]
        assert sum(stop - start for start, stop in runs) == plan.numel
        if whole and plan.accumulator is not None:
            assert len(runs) <= 1
        for _, stop in runs[:-1]:  # a tensor is cut only where every source has a fingerprint's chunk end
            assert all(stop * DTYPES[d].itemsize % CHUNK_BYTES == 0 for d in (*plan.inputs, plan.dtype))
    for slab in slabs:
        assert len({s.tensor.signature for s in slab.segments}) == 1
    assert len({slab.key for slab in slabs}) == len(slabs)


def test_tensors_with_other_parameters_are_not_worked_on_in_one_run() -> None:
    plans = [planned(f"t{i}", "F32", prod((8, 8)), ("F32", "F32"), alpha=a) for i, a in enumerate((0.1, 0.1, 0.2))]
    assert [len(slab.segments) for slab in cut(plans, 1 << 20)] == [2, 1]
