"""Side by side with mergekit's own functions on the same weights, where mergekit is installed."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from soupkit.merging.registry import METHODS
from tests.merging.references import Case, added
from tests.merging.test_methods import merged, states

mergekit = pytest.importorskip("mergekit.merge_methods")

# Our method and parameters, mergekit's, and how many ingredients besides the base (None: mergekit has no base).
PAIRS: list[tuple[str, dict[str, Any], dict[str, Any], int, bool]] = [
    ("linear", {"weight": [0.2, 0.5, 0.7]}, {"weight": [0.2, 0.5, 0.7]}, 3, False),
    (
        "linear",
        {"weight": [0.2, 0.5, 0.7], "normalize": False},
        {"weight": [0.2, 0.5, 0.7], "normalize": False},
        3,
        False,
    ),
    ("nuslerp", {"weight": [1, 3]}, {"weight": [1, 3]}, 2, False),
    ("nuslerp", {"weight": [1, 3]}, {"weight": [1, 3]}, 2, True),
    ("nuslerp", {"weight": [1, 3], "over": "rows"}, {"weight": [1, 3], "nuslerp_flatten": False}, 2, True),
    ("nuslerp", {"over": "columns"}, {"weight": 1.0, "nuslerp_flatten": False, "nuslerp_row_wise": True}, 2, True),
    ("multislerp", {"weight": [1, 2, 3]}, {"weight": [1, 2, 3]}, 3, False),
    ("multislerp", {}, {"weight": 1.0}, 3, True),
    ("karcher", {}, {}, 3, False),
    ("task_arithmetic", {"scale": [0.2, 0.5, 0.7]}, {"weight": [0.2, 0.5, 0.7]}, 3, True),
    ("ties", {"trim": "tensor", "density": 0.3}, {"weight": 1.0, "density": 0.3}, 3, True),
    (
        "ties",
        {"trim": "tensor", "density": [0.3, 0.9, 1], "weight": [1, 2, 0.5], "normalize": False, "scale": 0.4},
        {"weight": [1, 2, 0.5], "density": [0.3, 0.9, 1], "normalize": False, "lambda": 0.4},
        3,
        True,
    ),
    ("breadcrumbs", {"density": 0.6, "gamma": 0.1}, {"weight": 1.0, "density": 0.6, "gamma": 0.1}, 3, True),
    ("breadcrumbs_ties", {"density": 0.5, "gamma": 0.2}, {"weight": 1.0, "density": 0.5, "gamma": 0.2}, 3, True),
    ("sce", {"floor": 1e-6}, {}, 3, True),
    ("sce", {"select": 0.3, "floor": 1e-6}, {"select_topk": 0.3}, 3, True),
    ("ram", {}, {}, 3, True),
    ("ramplus_tl", {"epsilon": 0.1}, {"epsilon": 0.1}, 3, True),
    ("nearswap", {"t": 0.05}, {"t": 0.05}, 1, True),
    ("arcee_fusion", {}, {}, 1, True),
    ("model_stock", {"floor": 1e-6}, {}, 3, True),
    ("model_stock", {"floor": 1e-6, "over": "rows"}, {"filter_wise": True}, 3, True),
]
SHAPES = {"visual.proj": (12, 5), "visual.conv1.weight": (6, 3, 2, 2), "visual.ln_pre.bias": (57,), "logit_scale": ()}


def theirs(
    method: str, parameters: Mapping[str, Any], ingredients: list[dict[str, torch.Tensor]], base: Any
) -> dict[str, torch.Tensor]:
    models = {f"m{i}": state for i, state in enumerate(ingredients)}
    given = {k: {f"m{i}": x for i, x in enumerate(v)} if isinstance(v, list) else v for k, v in parameters.items()}
    if base is not None:
        models = {"base": base, **models}
    with torch.no_grad():
        return mergekit.merge_state_dicts(models, method, parameters=given, base="base" if base is not None else None)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda p: "-".join([p[0], *(f"{k}={v}" for k, v in p[2].items())]))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_deterministic_method_gives_what_mergekit_gives(
    pair: tuple[str, dict[str, Any], dict[str, Any], int, bool], dtype: torch.dtype
) -> None:
    method, ours, their_words, n, with_base = pair
    *ingredients, base = states(n, 12, 0.3, dtype)
    chosen = [k for k in SHAPES if not (k == "logit_scale" and ours.get("density", 1) != 1)]
    ingredients = [{k: x[k] for k in chosen} for x in ingredients]
    base = {k: base[k] for k in chosen}
    got = merged(Case(method, added, ours, base=with_base), ingredients, base)
    want = theirs(method, their_words, ingredients, base if with_base else None)
    # mergekit adds 1e-8 to norms that it divides by, and counts entries in float32.
    close = max(32 * torch.finfo(dtype).eps, 1e-7)
    for name in want:
        torch.testing.assert_close(got[name], want[name], rtol=close, atol=close)


def test_slerp_gives_what_mergekit_gives_from_its_base_to_the_other() -> None:
    a, b, _ = states(2, 12, 1.0)
    got = merged(Case("slerp", added, {"t": 0.3}), [a, b], a)
    for name, want in theirs("slerp", {"t": 0.3}, [b], a).items():
        torch.testing.assert_close(got[name], want, rtol=1e-5, atol=1e-6)


def test_all_methods_of_mergekit_are_here_but_those_that_stack_layers() -> None:
    assert {m.spec.name for m in mergekit.registered_methods()} - set(METHODS) == {"passthrough"}
