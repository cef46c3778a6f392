"""Every merge method of the table beside a second writing of it in float64, and the properties that must hold."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from soupkit.checkpoint import open_checkpoint
from soupkit.errors import CheckpointError, UsageError
from soupkit.merging import RunOptions, merge
from soupkit.merging.live_model import fill_by
from soupkit.merging.parameters import resolve
from soupkit.merging.registry import METHODS
from soupkit.merging.tensor_runs import Reader
from tests.conftest import as_numpy
from tests.merging.references import BLOCK, CASES, Case, added

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
    BLOCK: (20, 6),
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
        (weights,) = (Path(root) / "soup").glob("*.safetensors")
        return load_file(weights)


def wanted(case: Case, ingredients: Sequence[State], base: State) -> dict[str, np.ndarray]:
    """What the reference makes of the same weights."""
    xs = [{k: as_numpy(v) for k, v in state.items()} for state in ingredients]
    origin = {k: as_numpy(v) for k, v in base.items()}
    if case.of_the_model:
        return case.reference(xs, origin, **case.parameters)
    return {
        name: case.reference(
            [x[name] for x in xs],
            origin[name] if case.base else None,
            **({"name": name} if case.named else {}),
            **case.parameters,
        )
        for name in origin
        if origin[name].size
    }


def check(case: Case, ingredients: Sequence[State], base: State, got: State) -> None:
    eps = max(torch.finfo(state[name].dtype).eps for state in (ingredients[0], got) for name in state)
    if not METHODS[case.method].is_exact(case.parameters):
        eps = max(eps, 1e-10)  # libraries of linear algebra round in their own ways
    for name, want in wanted(case, ingredients, base).items():
        size = max(float(np.abs(as_numpy(state[name])).max(initial=0)) for state in [*ingredients, base])
        np.testing.assert_allclose(as_numpy(got[name]), want, rtol=4 * eps, atol=16 * eps * size, err_msg=name)


def test_every_method_of_soupkit_has_a_reference() -> None:
    own = {name for name in METHODS if METHODS.package_of(name) == "soupkit" and not METHODS[name].files}
    assert own == {case.method for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_method_computes_what_its_formula_says(case: Case, dtype: torch.dtype) -> None:
    *ingredients, base = states(case.ingredients, 0, 0.3, dtype)
    check(case, ingredients, base, merged(case, ingredients, base))


def nudged(state: dict[str, torch.Tensor], i: int) -> dict[str, torch.Tensor]:
    """Weights that are equal but for one number: of those that are equal altogether one counts."""
    last = list(state)[-1]
    changed = state[last].clone()
    changed.view(-1)[-1] += (i + 1) / 64
    return {**state, last: changed}


@pytest.mark.parametrize("case", CASES, ids=str)
@given(seed=st.integers(0, 2**32), spread=st.sampled_from([0.0, 1e-3, 1.0]), zero=st.booleans(), own=st.booleans())
@settings(max_examples=8, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_zeros_equal_ingredients_and_one_that_is_the_base_are_no_exception(
    case: Case, seed: int, spread: float, zero: bool, own: bool
) -> None:
    *ingredients, base = states(case.ingredients, seed, spread)
    if spread == 0:
        ingredients = [nudged(state, i) for i, state in enumerate(ingredients)]
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


@pytest.mark.parametrize("case", [c for c in CASES if c.one_is_itself], ids=str)
def test_one_ingredient_gives_itself(case: Case) -> None:
    ingredient, base = states(1, 2, 0.1, torch.float64)
    for name, tensor in merged(case, [ingredient], base).items():
        torch.testing.assert_close(tensor, ingredient[name], rtol=1e-12, atol=1e-12)


SPARSE = ["ties", "breadcrumbs", "breadcrumbs_ties", "dare_linear", "dare_ties", "della", "della_linear"]


@pytest.mark.parametrize("method", [m for m in SPARSE if m in ("breadcrumbs", "dare_linear", "della_linear")])
def test_a_method_that_keeps_everything_is_task_arithmetic(method: str) -> None:
    *ingredients, base = states(3, 3, 0.1, torch.float64)
    all_kept = Case(method, added, {"density": 1, "scale": 0.3}, base=True)
    for name, tensor in merged(all_kept, ingredients, base).items():
        want = merged(Case("task_arithmetic", added, {"scale": 0.3}, base=True), ingredients, base)[name]
        torch.testing.assert_close(tensor, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", SPARSE)
@pytest.mark.parametrize("density", [0, -0.5, 1.5])
def test_a_density_that_keeps_nothing_or_too_much_is_refused(method: str, density: float) -> None:
    *ingredients, base = states(2, 3, 0.1)
    with pytest.raises(UsageError, match="is not above 0 and at most 1") as caught:
        merged(Case(method, added, {"density": density}, base=True), ingredients, base)
    assert caught.value.where == "parameter density"


@pytest.mark.parametrize("method", sorted(m for m in METHODS if METHODS[m].needs_base))
def test_a_method_without_its_base_is_refused(method: str) -> None:
    *ingredients, base = states(METHODS[method].ingredients[1] or 2, 3, 0.1)
    with pytest.raises(UsageError, match="needs a base"):
        merged(Case(method, added), ingredients, base)


@pytest.mark.parametrize("method", ["ties", "magmax", "dare_linear", "arcee_fusion"])
def test_an_infinite_entry_is_refused_though_the_method_might_leave_it_out(method: str) -> None:
    *ingredients, base = states(METHODS[method].ingredients[1] or 2, 3, 0.1)
    ingredients[0]["visual.proj"][0, 0] = float("inf")
    with pytest.raises(CheckpointError, match="non-finite") as caught:
        merged(Case(method, added, base=True), ingredients, base)
    assert "'visual.proj'" in caught.value.where


def test_what_is_dropped_depends_on_the_seed_and_on_the_ingredient_and_on_nothing_else() -> None:
    ingredient, base = states(1, 4, 0.1, torch.float64)
    case = Case("dare_linear", added, {"rescale": "none", "weight": [1, 0]}, base=True)

    def kept(seed: int, place: int) -> torch.Tensor:
        weight = [1.0, 0.0] if place == 0 else [0.0, 1.0]
        one = replace(case, parameters={"seed": seed, "rescale": "none", "weight": weight})
        return (
            merged(one, [ingredient, nudged(ingredient, 0)], base)["token_embedding.weight"]
            != base["token_embedding.weight"]
        )

    assert torch.equal(kept(1, 0), kept(1, 0))
    for other in (kept(2, 0), kept(1, 1)):
        shared = (kept(1, 0) & other).double().mean().item()
        assert 0.2 < shared < 0.3, "two independent halves share a quarter"


def test_epsilon_that_makes_no_probability_is_refused() -> None:
    *ingredients, base = states(2, 3, 0.1)
    with pytest.raises(UsageError, match="no probabilities"):
        merged(Case("della", added, {"density": 0.1, "epsilon": 0.2}, base=True), ingredients, base)


def test_thresholds_of_the_model_ask_for_one_density() -> None:
    *ingredients, base = states(2, 3, 0.1)
    by_tower = {"density": {"visual.*": 0.1, "*": 0.5}}
    with pytest.raises(UsageError, match="counts for the whole model"):
        merged(Case("ties", added, by_tower, base=True), ingredients, base)
    merged(Case("ties", added, {**by_tower, "trim": "tensor"}, base=True), ingredients, base)


def test_lines_begin_with_the_norms_of_the_model() -> None:
    """For task arithmetic with scale s: norm(D) / (N norm(s D)) = 1 / (N s)."""
    *ingredients, base = states(2, 3, 0.1, torch.float64)
    got = merged(Case("task_arithmetic", added, {"scale": 0.25, "lines": 0.0}, base=True), ingredients, base)
    for name, tensor in got.items():
        want = base[name] + (1 / (2 * 0.25)) * 0.25 * sum(x[name] - base[name] for x in ingredients)
        torch.testing.assert_close(tensor, want, rtol=1e-12, atol=1e-12)


def test_a_live_model_is_filled_with_what_the_file_would_hold(tmp_path: Path) -> None:
    *ingredients, base = states(3, 5, 0.1)
    for case in (c for c in CASES if c.method in ("ties", "dare_ties", "della", "model_stock")):
        want = merged(case, ingredients, base)
        with ExitStack() as opened:
            sources = []
            for i, state in enumerate([*ingredients, base]):
                save_file(state, tmp_path / f"{i}.safetensors")
                sources.append(opened.enter_context(open_checkpoint(tmp_path / f"{i}.safetensors")))
            live = {name: torch.empty_like(x) for name, x in base.items()}
            method = METHODS[case.method]
            parameters = resolve(method, case.parameters, list(base), len(ingredients))
            fill_by(method, live, sources[:-1], sources[-1], parameters, Reader(torch.device("cpu")))
        assert all(torch.equal(live[name], want[name]) for name in want), case
