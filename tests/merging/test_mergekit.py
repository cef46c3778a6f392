"""Side by side with mergekit's own functions on the same weights, where mergekit is installed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from scipy.stats import ks_2samp

from soupkit.checkpoint import open_checkpoint
from soupkit.merging import merge, read_mergekit
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
SEEDS = 200  # of methods at random
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
    if "over" in ours and dtype == torch.float32:
        chosen.remove("visual.conv1.weight")  # vectors of two elements that are nearly straight
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


FILES = {
    "ties": """\
merge_method: ties
base_model: base
models:
  - {model: a, parameters: {weight: [0.2, 1], density: 0.5}}
  - {model: b, parameters: {weight: [{filter: mlp, value: 0.3}, {value: 0.7}]}}
parameters: {density: 0.8}
""",
    "slerp": """\
merge_method: slerp
base_model: a
models: [{model: a}, {model: b}]
parameters:
  t: [{filter: attn, value: [0, 0.5, 1]}, {value: 0.4}]
""",
    "linear": """\
merge_method: linear
models:
  - {model: a, parameters: {weight: [1, 0]}}
  - {model: b, parameters: {weight: 2}}
  - {model: base, parameters: {weight: 1e-1}}
""",
    "model_stock": """\
merge_method: model_stock
base_model: base
models: [{model: a}, {model: b}]
dtype: float32
""",
    "task_arithmetic": """\
merge_method: task_arithmetic
base_model: base
models: [{model: base}, {model: a}, {model: b}]
parameters: {weight: [0.1, 0.9], lambda: 1.0}
""",
}


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny CLIPs of transformers in the working directory: `base`, `a` and `b`."""
    from transformers import CLIPConfig, CLIPModel

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(CLIPModel, "get_input_embeddings", lambda _: None)  # mergekit asks for them; CLIP has none
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**tower, "vocab_size": 99, "max_position_embeddings": 8, "eos_token_id": 98},
        vision_config={**tower, "image_size": 16, "patch_size": 8},
        projection_dim=12,
    )
    torch.manual_seed(0)
    model = CLIPModel(config)
    start = {k: v.clone() for k, v in model.state_dict().items()}
    for ref, distance in (("base", 0.0), ("a", 0.1), ("b", 0.1)):
        far = {k: v + distance * torch.randn(v.shape) if v.is_floating_point() else v for k, v in start.items()}
        model.load_state_dict(far)
        model.save_pretrained(ref)


@pytest.mark.usefixtures("clips")
@pytest.mark.parametrize("name", FILES)
def test_a_whole_file_gives_what_mergekit_writes(name: str) -> None:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import MergeOptions, run_merge

    Path("merge.yml").write_text(FILES[name])
    config = MergeConfiguration.model_validate(yaml.safe_load(FILES[name]))
    run_merge(config, "theirs", MergeOptions(copy_tokenizer=False, write_model_card=False))
    soup = read_mergekit(Path("merge.yml"))
    merge(soup.ingredients, "ours", method=soup.method, base=soup.base, parameters=soup.parameters, dtype=soup.dtype)
    with open_checkpoint("theirs") as theirs, open_checkpoint("ours") as ours:
        for tensor in ours:
            if ours[tensor].is_floating_point():
                torch.testing.assert_close(ours[tensor], theirs[tensor], rtol=1e-5, atol=1e-6, msg=tensor)


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "della", "della_linear"])
def test_a_random_method_agrees_in_distribution_from_end_to_end(method: str) -> None:
    """Entry by entry, over seeds of both, which are fixed, by Kolmogorov and Smirnov's test."""
    *ingredients, base = ({"visual.proj": x["visual.proj"]} for x in states(2, 12, 0.3, torch.float32))
    given: dict[str, Any] = {"density": 0.4, **({"epsilon": 0.25} if method.startswith("della") else {})}
    normalize = method == "della"
    ours, others = [], []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        words = {**given, "weight": [1.0, 0.5], "normalize": normalize}
        others.append(theirs(method, words, ingredients, base)["visual.proj"].numpy())
        own = {**given, "weight": [1.0, 0.5], "normalize": normalize, "rescale": "l1", "seed": seed}
        ours.append(merged(Case(method, added, own, base=True), ingredients, base)["visual.proj"].numpy())
    one, other = (np.stack(x).reshape(SEEDS, -1).round(5) for x in (ours, others))
    p = [ks_2samp(one[:, i], other[:, i]).pvalue for i in range(one.shape[1])]
    assert min(p) > 1e-3 / len(p)  # Bonferroni
    spread = np.sqrt((one.var(axis=0) + other.var(axis=0)) / SEEDS)
    assert (np.abs(one.mean(axis=0) - other.mean(axis=0)) < 4.5 * spread + 1e-6).all()
