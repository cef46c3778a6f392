"""A run's entry: what it takes over, what is refused, and its schedule and optimizer beside open_clip's."""

from pathlib import Path
from typing import Any

import pytest
import torch

from soupkit.errors import SoupkitError, UsageError
from soupkit.training.entry import TrainEntry
from soupkit.training.model import build, find_start
from soupkit.training.optimizer import build_optimizer
from soupkit.training.runs import read_runs
from soupkit.training.schedule import Schedule, schedule_of
from tests.conftest import TINY_MODEL

RECIPE = """\
version: 1
train:
  b: {init: "${train.stage1}", patch_dropout: 0, lr: 5.5e-5, samples: 4e9, warmup: 200e6}
  a: {init: "${train.stage1}", patch_dropout: 0, lr: 4.0e-3, samples: 2e9, schedule: continued}
  stage1:
    model: ViT-bigG-14
    data: {shards: "laion/{00000..00003}.tar"}
    batch_size: 160000
    samples: 32e9
    warmup: 1.9e9
    lr: 2.0e-3
    patch_dropout: 0.5
soup: {uniform: {ingredients: ["${train.a}", "${train.b}"]}}
"""


def entry(**fields: Any) -> TrainEntry:
    usual = {"model": TINY_MODEL, "data": {"shards": "digits:train"}, "batch_size": 8, "samples": 64, "lr": 1e-3}
    return TrainEntry.model_validate({**usual, **fields})


def recipe(tmp_path: Path, text: str = RECIPE) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def test_a_run_takes_over_what_it_does_not_say_and_comes_after_its_parent(tmp_path: Path) -> None:
    runs = {run.name: run for run in read_runs(recipe(tmp_path))}
    assert next(iter(runs)) == "stage1" and runs["a"].parent == runs["b"].parent == "stage1"
    a, b = runs["a"].entry, runs["b"].entry
    assert (a.model, a.batch_size, a.patch_dropout, a.warmup) == ("ViT-bigG-14", 160000, 0.0, 1_900_000_000)
    assert (b.warmup, b.schedule, b.samples) == (200_000_000, "cosine", 4_000_000_000)


def test_a_continued_schedule_is_that_of_the_literature(tmp_path: Path) -> None:
    a = next(run.entry for run in read_runs(recipe(tmp_path)) if run.name == "a")
    assert schedule_of(a)(0) == pytest.approx(3.8e-5, rel=0.01)
    assert schedule_of(a)(2_000_000_000) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("constant", [False, True])
def test_the_schedule_is_that_of_open_clips_trainer(constant: bool) -> None:
    scheduler = pytest.importorskip("open_clip_train.scheduler")
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    make = scheduler.const_lr if constant else scheduler.cosine_lr
    theirs = make(optimizer, 3e-3, 7, 50)
    ours = Schedule(3e-3, 7 * 16, 50 * 16, 16, constant=constant)
    for step in range(50):
        theirs(step)
        assert ours(step * 16) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


def test_set_reaches_one_run_or_all(tmp_path: Path) -> None:
    settings = ["a.lr=1e-3", "data.shuffle_shards=3", "seed=5"]
    runs = {run.name: run.entry for run in read_runs(recipe(tmp_path), settings)}
    assert [runs[n].lr for n in ("stage1", "a", "b")] == [2e-3, 1e-3, 5.5e-5]
    assert all(run.seed == 5 for run in runs.values())
    assert runs["stage1"].data[0].shuffle_shards == 3 and runs["stage1"].data[0].shards
    with pytest.raises(UsageError, match="not key=value"):
        read_runs(recipe(tmp_path), ["lr"])
    scales = [run.entry.augmentation for run in read_runs(recipe(tmp_path), ["augmentation.scale=[0.9, 1]"])]
    assert scales == [{"scale": [0.9, 1]}] * 3, "also of a setting that no run had named"
    for slip, said in (("stage.lr=1", "'stage' is no setting, and no run"), ("sweep.count=3", "no sweep")):
        with pytest.raises(UsageError, match=said):
            read_runs(recipe(tmp_path), [slip])
    for wrong, said in (("a.lr=-1", "lr: input"), ("a.rl=1", "no key 'rl'"), ("stage1.data.share=3", "data.*: input")):
        with pytest.raises(UsageError, match=said) as caught:
            read_runs(recipe(tmp_path), [wrong])
        assert caught.value.where == f"--set {wrong.partition('=')[0]}"


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("lr: 2.0e-3", "lr: 2.0e-3\n    learning_rate: 1", 12, "learning_rate"),
        ("batch_size: 160000", "batch_size: 0", 8, "batch_size"),
        ("samples: 32e9", "samples: many", 9, "samples"),
        ('train.stage1}", patch_dropout: 0, lr: 4.0e-3', 'train.b2}", lr: 1', 4, "no run here"),
        ("    model: ViT-bigG-14", '    init: "${train.a}"', 4, "starts from itself"),
        ("    model: ViT-bigG-14\n", "", 5, "needs a model"),
        ('{shards: "laion/{00000..00003}.tar"}', "{}", 7, "either shards or csv"),
        ('{shards: "laion/{00000..00003}.tar"}', "[{csv: a.csv, weight: 1}, {csv: b.csv}]", 5, "some have none"),
        ('{shards: "laion/{00000..00003}.tar"}', "{csv: a.csv,\n      share: 2}", 8, r": data\.share: input should"),
        ('{shards: "laion/{00000..00003}.tar"}', "[{csv: a.csv},\n      {cvs: b.csv}]", 8, r"no key 'data\.1\.cvs'"),
        ('{shards: "laion/{00000..00003}.tar"}', "[]", 7, "at least 1 item"),
        ("model: ViT-bigG-14", "model: 5", 6, ": model: input should be a valid string"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, old: str, new: str, line: int, said: str) -> None:
    assert old in RECIPE
    with pytest.raises(UsageError, match=said) as caught:
        read_runs(recipe(tmp_path, RECIPE.replace(old, new)))
    assert caught.value.where.endswith(f"line {line}")


def test_a_file_may_hold_one_entry_alone(tmp_path: Path) -> None:
    text = "model: ViT-B-32\ndata: {csv: x.csv}\nbatch_size: 8\nsamples: 64\nlr: 1e-3\n"
    (run,) = read_runs(recipe(tmp_path, text))
    assert run.name == "" and run.entry.lr == 1e-3 and run.entry.data[0].csv == Path("x.csv")


def model_of(run: TrainEntry) -> torch.nn.Module:
    return build(run, find_start(run), torch.device("cpu"))[0]


def test_what_decays_is_what_decays_in_open_clip() -> None:
    model = model_of(entry(weight_decay=0.2))
    optimizer = build_optimizer(model, entry(weight_decay=0.2))
    decayed = {id(p) for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    for name, p in model.named_parameters():
        excluded = p.ndim < 2 or "bn" in name or "ln" in name or "bias" in name or "logit_scale" in name
        assert (id(p) in decayed) == (not excluded), name
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))


def test_layer_decay_slows_what_is_far_from_the_output() -> None:
    run = entry(layer_decay=0.5)
    model = model_of(run)
    scale = {id(p): g["lr_scale"] for g in build_optimizer(model, run).param_groups for p in g["params"]}
    named = {n: scale[id(p)] for n, p in model.named_parameters()}
    assert named["visual.proj"] == named["visual.transformer.resblocks.1.mlp.c_fc.weight"] == 1.0
    assert named["visual.transformer.resblocks.0.mlp.c_fc.weight"] == named["visual.conv1.weight"] == 0.5


def test_locked_towers_are_not_trained() -> None:
    model = model_of(entry(lock_image=True))
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained and not any(n.startswith("visual.") for n in trained)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model": "ViT-Z-99"}, "knows no model"),
        ({"model": {"embed_dim": 3}}, "no vision_cfg and text_cfg"),
        ({"loss": "siglip"}, "no logit_bias"),
        ({"model": "missing.json"}, "cannot be read"),
        ({"init": "nowhere"}, "nothing here"),
    ],
)
def test_a_model_that_cannot_be_trained_is_said(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(SoupkitError, match=said):
        model_of(entry(**fields))
