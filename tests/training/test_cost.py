"""The cost of a run, against open_clip's published profiles, arithmetic by hand, and the literature's recipe."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soupkit.cli.train import train
from soupkit.errors import UsageError
from soupkit.training.cost import counted_whole, model_cost, run_cost
from soupkit.training.entry import TrainEntry
from soupkit.training.runs import read_runs
from soupkit.training.schedule import Schedule
from tests.processes import soupkit

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "vit-bigg-14-laion2b.yaml"
# Millions of parameters and billions of operations, forwards, in openclip_results.csv of open_clip.
PROFILES = {"ViT-B-32": (151.28, 14.78), "ViT-bigG-14": (2539.57, 1065.36)}

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 4},
    "text_cfg": {"context_length": 8, "vocab_size": 100, "width": 16, "heads": 2, "layers": 2},
}


def tower(tokens: int, width: int, layers: int, *, backward: bool) -> int:
    """Operations of a transformer's blocks: four projections, an MLP of ratio 4, two products of attention."""
    return (2 if backward else 1) * layers * (2 * tokens * 12 * width**2 + 4 * tokens**2 * width)


@pytest.mark.parametrize("name", PROFILES)
def test_parameters_and_operations_are_those_that_open_clip_publishes(name: str) -> None:
    cost = model_cost(open_clip.get_model_config(name), patch_dropout=0, checkpointing="none", bf16=True)
    assert (round(cost.parameters / 1e6, 2), round(cost.forward / 1e9, 2)) == PROFILES[name]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_operations_are_those_of_arithmetic_by_hand(dropout: float) -> None:
    cost = model_cost(TINY, patch_dropout=dropout, checkpointing="none", bf16=False)
    tokens = 1 + int(64 * (1 - dropout))
    ends = 2 * 64 * 3 * 16 * 32 + 2 * 32 * 16 + 2 * 16 * 16  # patches, and the projections of both towers
    assert cost.forward == tower(tokens, 32, 3, backward=False) + tower(8, 16, 2, backward=False) + ends
    blocks = tower(tokens, 32, 3, backward=True) + tower(8, 16, 2, backward=True)
    assert blocks <= cost.backward <= blocks + 2 * ends


def test_checkpointing_goes_forwards_again_and_keeps_less() -> None:
    plain, again = (model_cost(TINY, patch_dropout=0, checkpointing=c, bf16=False) for c in ("none", "full"))
    blocks = tower(65, 32, 3, backward=False) + tower(8, 16, 2, backward=False)
    last = 3 * 2 * 65 * 4 * 32**2 + 2 * 2 * 8 * 4 * 16**2  # a block's last product, which autograd does not need again
    assert again.backward - plain.backward == blocks - last and again.forward == plain.forward
    assert again.kept < plain.kept / 3
    halved = model_cost(TINY, patch_dropout=0, checkpointing="none", bf16=True)
    assert 0.5 <= halved.kept / plain.kept < 0.65  # the statistics of the norms stay in float32


def test_selective_checkpointing_keeps_products_and_multiplies_nothing_twice() -> None:
    plain, some, again = (
        model_cost(TINY, patch_dropout=0, checkpointing=c, bf16=False) for c in ("none", "selective", "full")
    )
    assert (some.forward, some.backward) == (plain.forward, plain.backward)
    assert again.kept < some.kept < plain.kept
    # Of each token the results of four products of width and one of four times that, at least.
    assert some.kept - again.kept >= 4 * (3 * 65 * 8 * 32 + 2 * 8 * 8 * 16)


def entry(**settings: object) -> TrainEntry:
    fields = {"model": TINY, "data": {"shards": "x.tar"}, "batch_size": 64, "samples": 640, "lr": 1e-3}
    return TrainEntry.model_validate({**fields, **settings})


def test_under_a_head_the_image_tower_alone_is_counted() -> None:
    whole = model_cost(TINY, patch_dropout=0, checkpointing="none", bf16=False)
    alone = model_cost(TINY, patch_dropout=0, checkpointing="none", bf16=False, image_alone=True)
    assert alone.forward == alone.image == whole.image < whole.forward
    visual = open_clip.CLIP(**TINY).visual
    assert alone.parameters == sum(p.numel() for p in visual.parameters()) < whole.parameters


def test_a_run_costs_its_steps_and_is_shared_by_its_world() -> None:
    one, four = run_cost(entry(), rate=1e9), run_cost(entry(), world=4, rate=1e9)
    assert one.steps == 10 and one.operations == 640 * one.operations_per_sample
    assert one.days == pytest.approx(one.operations / 1e9 / 86400) and four.days == pytest.approx((one.days or 0) / 4)
    assert one.state == 16 * one.parameters == 4 * four.state and four.activations == one.activations / 4
    accumulated = run_cost(entry(micro_batch_size=16))
    model = model_cost(TINY, patch_dropout=0, checkpointing="none", bf16=False)
    assert accumulated.operations_per_sample - one.operations_per_sample == model.forward
    assert run_cost(entry(ema=0.9)).state == 20 * one.parameters and one.curve[0][0] == 0
    for world in (65, 48):
        with pytest.raises(UsageError, match=f"cannot be shared by {world} GPUs"):
            run_cost(entry(), world=world)


@given(st.integers(1, 40), st.integers(0, 3000), st.integers(0, 1500), st.integers(1, 64), st.booleans())
def test_the_highest_rate_of_a_run_is_found(steps: int, warmup: int, offset: int, batch: int, constant: bool) -> None:
    schedule = Schedule(1e-3, warmup, offset + steps * batch, batch, offset, constant)
    assert schedule(schedule.highest(steps)) == max(schedule(i * batch) for i in range(steps))


def test_the_recipe_of_the_literature_holds_its_figures() -> None:
    runs = {run.name: run.entry for run in read_runs(RECIPE)}
    stage1, a, b, c = (runs[name] for name in ("stage1", "stage2-a", "stage2-b", "stage2-c"))
    assert (stage1.samples, stage1.batch_size, stage1.lr, stage1.patch_dropout) == (32e9, 160_000, 2e-3, 0.5)
    assert (a.samples, a.lr, a.schedule, a.continued_from) == (2e9, 4e-3, "continued", 32e9)
    assert (b.samples, b.lr, b.schedule, b.warmup) == (4e9, 5.5e-5, "cosine", 200e6)
    assert (c.stop_at, c.lr, c.continued_from) == (700e6, 4e-3, 32e9) and c.data != a.data
    assert all(not run.patch_dropout and run.grad_checkpointing == "full" for run in (a, b, c))


def test_a_dry_run_says_what_the_literature_s_recipe_costs(tmp_path: Path) -> None:
    options = ("--dry-run", "--world-size", 500, "--rate", 150, "--set", "model=ViT-B-32")
    done = soupkit("train", RECIPE, "--run", "stage2-a", "-o", tmp_path / "runs", *options, "--json")
    assert done.returncode == 0, done.stderr
    cost = json.loads(done.stdout)["costs"]["stage2-a"]
    assert cost["steps"] == 12_500 and cost["parameters"] == 151_277_313
    assert cost["curve"][0][1] == pytest.approx(3.8e-5, rel=0.01)  # as published
    assert cost["state"] == pytest.approx(16 * 151_277_313 / 500)
    assert not (tmp_path / "runs").exists()
    with pytest.raises(UsageError, match="belong to --dry-run"):
        train(RECIPE, tmp_path / "runs", rate=150)


HOW = [
    (0.0, "none", False, False),
    (0.5, "full", True, False),
    (0.5, "none", True, True),
    (0.0, "selective", True, False),
]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(("name", "deep"), [("ViT-L-14", {}), ("ViT-B-32", {"layers": 17}), ("RN50", {"layers": 18})])
def test_deep_towers_cost_what_all_their_blocks_cost(name: str, deep: dict[str, int], how: tuple[Any, ...]) -> None:
    config = open_clip.get_model_config(name)
    assert config is not None
    config = {**config, "text_cfg": {} if how[3] else {**config["text_cfg"], **deep}}
    cost = model_cost(config, **dict(zip(("patch_dropout", "checkpointing", "bf16", "image_alone"), how, strict=True)))
    assert cost == counted_whole(config, *how)
