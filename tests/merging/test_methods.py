"""Every merge method of the table beside a second writing of it in float64, and the properties that must hold."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from soupkit.merging import RunOptions, merge
from soupkit.merging.registry import METHODS
from tests.conftest import as_numpy
from tests.merging.references import CASES, Case

State = dict[str, torch.Tensor]
SHAPES: dict[str, tuple[int, ...]] = {
    "logit_scale": (),
    "one": (1,),
    "empty": (0, 4),
    "visual.ln_pre.bias": (7,),
    "visual.proj": (12, 5),
    "text_projection": (5, 12),
    "visual.conv1.weight": (6, 3, 2, 2),
    "token_embedding.weight": (101, 9),
}


def states(n: int, seed: int, spread: float, dtype: torch.dtype = torch.float32) -> list[State]:
    """So many models near one base, which is the last."""
    generator = torch.Generator().manual_seed(seed)
    base = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    near = [{k: v + spread * torch.randn(v.shape, generator=generator) for k, v in base.items()} for _ in range(n)]
    return [{k: v.to(dtype) for k, v in state.items()} for state in [*near, base]]


def merged(case: Case, ingredients: Sequence[State], base: State, **options: Any) -> State:
    """The merge of `case`, by way of files."""
    with TemporaryDirectory() as root:
        paths = [Path(root) / f"{i}.safetensors" for i in range(len(ingredients) + 1)]
        for path, state in zip(paths, [*ingredients, base], strict=True):
            save_file({k: v.contiguous() for k, v in state.items()}, path)
        merge(
            paths[:-1],
            Path(root) / "soup",
            method=case.method,
            base=paths[-1] if case.base else None,
            parameters=case.parameters,
            options=RunOptions(device="cpu", threads=1),
            **options,
        )
        return load_file(Path(root) / "soup" / "open_clip_model.safetensors")


def check(case: Case, ingredients: Sequence[State], base: State, got: State) -> None:
    eps = max(torch.finfo(state[name].dtype).eps for state in (ingredients[0], got) for name in state)
    for name, tensor in got.items():
        xs = [as_numpy(state[name]) for state in ingredients]
        want = case.reference(xs, as_numpy(base[name]) if case.base else None, **case.parameters)
        size = max((float(np.abs(x).max(initial=0)) for x in [*xs, as_numpy(base[name])]), default=0.0)
        np.testing.assert_allclose(as_numpy(tensor), want, rtol=4 * eps, atol=8 * eps * size, err_msg=name)


def test_every_method_of_soupkit_has_a_reference() -> None:
    own = {name for name in METHODS if METHODS.package_of(name) == "soupkit"}
    assert own == {case.method for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_method_computes_what_its_formula_says(case: Case, dtype: torch.dtype) -> None:
    *ingredients, base = states(case.ingredients, 0, 0.3, dtype)
    check(case, ingredients, base, merged(case, ingredients, base))


@pytest.mark.parametrize("case", CASES, ids=str)
@given(seed=st.integers(0, 2**32), spread=st.sampled_from([0.0, 1e-3, 1.0]), zero=st.booleans(), own=st.booleans())
@settings(max_examples=8, deadline=None)
def test_zeros_equal_ingredients_and_one_that_is_the_base_are_no_exception(
    case: Case, seed: int, spread: float, zero: bool, own: bool
) -> None:
    *ingredients, base = states(case.ingredients, seed, spread)
    if zero:
        ingredients[-1] = {k: torch.zeros_like(v) for k, v in ingredients[-1].items()}
    if own:
        ingredients[0] = base
    check(case, ingredients, base, merged(case, ingredients, base))


@pytest.mark.parametrize("case", [c for c in CASES if c.symmetric], ids=str)
def test_the_order_of_ingredients_does_not_matter(case: Case) -> None:
    *ingredients, base = states(case.ingredients, 1, 0.1)
    one, other = merged(case, ingredients, base), merged(case, ingredients[::-1], base)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-6, atol=1e-7)
