"""Side by side with FusionBench's own functions on the same task vectors in float64, where it is installed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.merging.references import BLOCK, Case, added
from tests.merging.test_methods import State, merged, states

NAMES = (BLOCK, "visual.proj", "visual.ln_pre.bias", "visual.conv1.weight", "text_projection", "logit_scale")
LEFT_OUT = ["text_projection"]
Merge = Callable[[list[State], State, list[State]], State]


def module(name: str) -> Any:
    return pytest.importorskip(f"fusion_bench.method.{name}", exc_type=ImportError)


def flat(state: State) -> Tensor:
    return torch.cat([x.reshape(-1) for x in state.values()])


def cut(vector: Tensor, like: State) -> State:
    parts = vector.split([x.numel() for x in like.values()])
    return {name: part.view(x.shape) for (name, x), part in zip(like.items(), parts, strict=True)}


def iso_c(vectors: list[State], base: State, ingredients: list[State]) -> State:
    return module("isotropic_merging.iso_utils").iso_c(vectors, "cpu", LEFT_OUT)


def iso_cts(vectors: list[State], base: State, ingredients: list[State]) -> State:
    return module("isotropic_merging.iso_utils").iso_cts(vectors, 0.4, "cpu", LEFT_OUT)


def tsv_m(vectors: list[State], base: State, ingredients: list[State]) -> State:
    return module("task_singular_vector.utils").TSVM_utils.compute_and_sum_svd_mem_reduction(vectors, LEFT_OUT, "cpu")


def wudi(vectors: list[State], base: State, ingredients: list[State]) -> State:
    others = [name for name in NAMES if name != BLOCK]  # the layers that are no linear ones are averaged
    made = module("wudi.wudi").wudi_merging(vectors, "cpu", 50, others)
    return {name: tensor.detach() for name, tensor in made.items()}


def magmax(vectors: list[State], base: State, ingredients: list[State]) -> State:
    return {k: 0.5 * v for k, v in module("magmax.magmax")._magmax_select(vectors).items()}


def consensus(vectors: list[State], base: State, ingredients: list[State]) -> State:
    tasks = torch.stack([flat(v) for v in vectors])
    fine_tuned = torch.stack([flat(x) for x in ingredients])
    masks = module("tall_mask.utils").generate_task_masks(tasks, fine_tuned, flat(base), tall_mask_lambda=0.6)
    return cut(0.3 * tasks.sum(dim=0) * (masks.sum(dim=0) >= 2), base)


def ties(how: str) -> Merge:
    def merge(vectors: list[State], base: State, ingredients: list[State]) -> State:
        utils = module("ties_merging.ties_merging_utils")
        tasks = torch.stack([flat(v) for v in vectors])
        return cut(utils.ties_merging(tasks, reset_thresh=20, merge_func=f"dis-{how}"), base)

    return merge


CASES: list[tuple[str, dict[str, Any], Merge]] = [
    ("iso_c", {}, iso_c),
    ("iso_cts", {"common": 0.4}, iso_cts),
    ("tsv_m", {}, tsv_m),
    ("wudi", {"steps": 50}, wudi),
    ("magmax", {}, magmax),
    ("consensus", {}, consensus),
    # Asked for 20 % of 320 entries it keeps those from the 256th smallest on: 65.
    ("ties", {"density": 65 / 320}, ties("mean")),
    ("ties", {"density": 65 / 320, "normalize": False}, ties("sum")),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join([c[0], *(f"{k}={v}" for k, v in c[1].items())]))
def test_a_method_gives_what_fusion_bench_gives(case: tuple[str, dict[str, Any], Merge]) -> None:
    method, parameters, theirs = case
    *ingredients, base = [{k: s[k] for k in NAMES} for s in states(3, 21, 0.1, torch.float64)]
    vectors = [{k: x[k] - base[k] for k in NAMES} for x in ingredients]
    want = theirs(vectors, base, ingredients)
    got = merged(Case(method, added, parameters, base=True), ingredients, base)
    for name in NAMES:
        torch.testing.assert_close(got[name], base[name] + want[name].reshape(base[name].shape), rtol=1e-9, atol=1e-10)
