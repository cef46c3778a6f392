"""Several runs from one entry: what they are called, what they are, and how the rest of a recipe names them."""

import json
from pathlib import Path

import pytest
import yaml

from soupkit.checkpoint import open_checkpoint
from soupkit.checkpoint.fingerprint import fingerprint
from soupkit.cli.train import train_runs
from soupkit.errors import UsageError
from soupkit.progress import SILENT
from soupkit.recipe.graph import read_recipe
from soupkit.training.runs import Run, read_runs, select_runs
from soupkit.training.schedule import schedule_of
from tests.training.runs import IN_PROCESS, settings

STAGE_2 = """\
version: 1
train:
  stage1: {model: ViT-B-32, data: {shards: "{0..3}.tar"}, batch_size: 100, samples: 32e3, lr: 2.0e-3, warmup: 1.9e3}
  stage2:
    init: "${train.stage1}"
    patch_dropout: 0
    sweep:
      variants:
        a: {schedule: continued, lr: 4.0e-3, samples: 2e3}
        b: {lr: 5.5e-5, samples: 4e3, warmup: 200}
        c: {schedule: continued, lr: 4.0e-3, samples: 2e3, stop_at: 700, data.share: 0.5}
  last: {init: "${train.stage2-b}", lr: 1.0e-6}
soup:
  all: {ingredients: ["${train.stage2}", "${train.last}", runs/mine]}
evaluate: {refs: ["${train.stage1}", "${train.stage2}", "${soup.all}"], tasks: [digits]}
"""
RANDOM = """\
model: ViT-B-32
data: {csv: x.csv}
batch_size: 100
samples: 1e3
lr: 1e-3
seed: 5
sweep:
  count: 40
  seed: 1
  draw:
    lr: {log_uniform: [1e-6, 1e-4]}
    weight_decay: {log_uniform: [1e-4, 0.63]}
    samples: {int_uniform: [400, 1600]}
    augmentation.scale: {choice: [[0.9, 1.0], [0.5, 1.0]]}
    augmentation.auto_augment: {choice: [null, rand-m5-n1, rand-m15-n2]}
    ema: {choice: [null, {uniform: [0.9, 0.99]}]}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def runs_of(tmp_path: Path, text: str, *changes: str) -> dict[str, Run]:
    return {run.name: run for run in read_runs(write(tmp_path, text), changes)}


def test_variants_are_runs_that_differ_in_what_they_say(tmp_path: Path) -> None:
    runs = runs_of(tmp_path, STAGE_2)
    assert list(runs) == ["stage1", "stage2-a", "stage2-b", "stage2-c", "last"]
    a, b, c = (runs[f"stage2-{name}"].entry for name in "abc")
    assert (a.lr, a.schedule, a.continued_from, a.warmup) == (4e-3, "continued", 32_000, 1_900)
    assert (b.lr, b.schedule, b.warmup, b.samples) == (5.5e-5, "cosine", 200, 4_000)
    assert c.stop_at == 700 and c.data[0].share == 0.5 and c.data[0].shards == a.data[0].shards
    assert runs["stage2-a"].sweep == "stage2" and runs["last"].parent == "stage2-b" and runs["last"].entry.warmup == 0
    numbered = runs_of(tmp_path, RANDOM.partition("sweep:")[0] + "sweep: {variants: [{lr: 1.0}, {lr: 2.0}]}")
    assert {name: run.entry.lr for name, run in numbered.items()} == {"01": 1.0, "02": 2.0}


def test_a_schedule_may_be_continued_again(tmp_path: Path) -> None:
    again = STAGE_2.replace('stage2-b}", lr: 1.0e-6', 'stage2-c}", schedule: continued, lr: 4.0e-3, samples: 1e3')
    entry = runs_of(tmp_path, again)["last"].entry
    assert (entry.continued_from, entry.warmup, schedule_of(entry).total) == (32_700, 1_900, 33_700)


def test_a_random_sweep_is_the_same_at_every_reading_and_holds_its_bounds(tmp_path: Path) -> None:
    runs = runs_of(tmp_path, RANDOM)
    assert runs == runs_of(tmp_path, RANDOM) and list(runs)[:2] == ["01", "02"] and len(runs) == 40
    entries = [run.entry for run in runs.values()]
    assert all(1e-6 <= e.lr <= 1e-4 and 1e-4 <= e.weight_decay <= 0.63 and 400 <= e.samples <= 1600 for e in entries)
    below = sum(e.lr < 1e-5 for e in entries)
    assert 10 <= below <= 30, "half of them, on a scale of logarithms"
    assert {e.seed for e in entries} == set(range(6, 46)) and len({e.lr for e in entries}) == 40
    assert {e.augmentation["auto_augment"] for e in entries} == {None, "rand-m5-n1", "rand-m15-n2"}
    assert any(e.ema is None for e in entries) and any(e.ema and 0.9 <= e.ema <= 0.99 for e in entries)


def test_more_runs_or_settings_leave_the_others_as_they_were(tmp_path: Path) -> None:
    runs = runs_of(tmp_path, RANDOM)
    longer = runs_of(tmp_path, RANDOM, "sweep.count=100")
    assert [longer[name].entry for name in runs] == [run.entry for run in runs.values()]
    more = runs_of(tmp_path, RANDOM + "    grad_clip: {uniform: [1, 2]}\n")
    assert [r.entry.model_copy(update={"grad_clip": None}) for r in more.values()] == [r.entry for r in runs.values()]
    other = runs_of(tmp_path, RANDOM, "sweep.seed=2")
    assert not {r.entry.lr for r in other.values()} & {r.entry.lr for r in runs.values()}


def test_set_reaches_a_sweep_or_one_of_its_runs(tmp_path: Path) -> None:
    runs = runs_of(tmp_path, STAGE_2, "stage2.weight_decay=0", "stage2-b.lr=1", "seed=3", "stage2-a.data.share=0.25")
    assert [r.entry.weight_decay for r in runs.values()] == [0.2, 0, 0, 0, 0]
    assert runs["stage2-b"].entry.lr == 1 and runs["stage2-a"].entry.lr == 4e-3
    assert all(r.entry.seed == 3 for r in runs.values()) and runs["stage2-a"].entry.data[0].share == 0.25
    with pytest.raises(UsageError, match="model is no map"):
        read_runs(write(tmp_path, STAGE_2), ["stage1.model.layers=2"])


def test_a_run_is_selected_with_what_it_starts_from_and_a_sweep_with_all_its_runs(tmp_path: Path) -> None:
    runs = read_runs(write(tmp_path, STAGE_2))
    assert [r.name for r in select_runs(runs, "last")] == ["stage1", "stage2-b", "last"]
    assert [r.name for r in select_runs(runs, "stage2")] == ["stage1", "stage2-a", "stage2-b", "stage2-c"]
    with pytest.raises(UsageError, match="no run 'stage3'"):
        select_runs(runs, "stage3")


def test_a_reference_to_a_sweep_stands_for_all_its_runs(tmp_path: Path) -> None:
    steps = {step.name: step for step in read_recipe(write(tmp_path, STAGE_2)).steps}
    three = tuple(f"train.stage2-{name}" for name in "abc")
    assert steps["soup.all"].entry.model_dump()["ingredients"] == [
        *(f"${{{name}}}" for name in three), "${train.last}", "runs/mine",
    ]  # fmt: skip
    assert steps["soup.all"].needs == (*three, "train.last") and set(three) < set(steps["evaluate"].needs)
    assert {s.name for s in read_recipe(write(tmp_path, STAGE_2)).until("train.stage2")} == {"train.stage1", *three}
    averages = STAGE_2.replace('["${train.stage2}", ', '["${train.stage2}@ema", ')
    (soup,) = (step for step in read_recipe(write(tmp_path, averages)).steps if step.name == "soup.all")
    assert soup.entry.model_dump()["ingredients"][:3] == [f"${{{name}}}@ema" for name in three]
    with pytest.raises(UsageError, match="names no step"):
        read_recipe(write(tmp_path, STAGE_2.replace("all: {", 'all: {base: "${train.stage2}", ')))


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("lr: 5.5e-5", "learning_rate: 1", 10, "learning_rate"),
        ("lr: 5.5e-5", "lr: -1", 10, "lr"),
        ("stage2-b}", "stage2}", 12, "is a sweep"),
        ("last:", "stage2-c:", 12, "stands here too"),
        ("variants:", "variant:", 8, "variant"),
        ("        a: {", "        a/b: {", 7, "no name for a run"),
    ],
)
def test_what_is_wrong_in_variants_is_said_with_its_line(
    tmp_path: Path, old: str, new: str, line: int, said: str
) -> None:
    assert old in STAGE_2
    with pytest.raises(UsageError, match=said) as caught:
        read_runs(write(tmp_path, STAGE_2.replace(old, new)))
    assert caught.value.where.endswith(f"line {line}"), caught.value.where


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("log_uniform: [1e-6, 1e-4]", "log_uniform: [0, 1]", "above 0"),
        ("log_uniform: [1e-6, 1e-4]", "log_uniform: [2, 1]", "lower one first"),
        ("log_uniform: [1e-6, 1e-4]", "uniform: [a, b]", "should be numbers"),
        ("log_uniform: [1e-6, 1e-4]", "normal: [0, 1]", "give one of uniform"),
        ("int_uniform: [400, 1600]", "int_uniform: [0.5, 2]", "whole numbers"),
        ("choice: [null, {uniform: [0.9, 0.99]}]", "choice: []", "choice is a list"),
        ("  count: 40\n", "", "count and draw"),
        ("weight_decay: {", "decay: {", "decay"),
    ],
)
def test_what_is_wrong_in_a_random_sweep_is_said(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in RANDOM
    with pytest.raises(UsageError, match=said):
        read_runs(write(tmp_path, RANDOM.replace(old, new)))


@pytest.mark.parametrize(("name", "trained"), [("sweep", 32), ("vit-bigg-14-laion2b", 4), ("digits", 4)])
def test_the_recipes_that_people_run_can_be_read_as_a_whole(name: str, trained: int) -> None:
    graph = read_recipe(Path(__file__).parents[2] / "recipes" / f"{name}.yaml")
    assert sum(step.name.startswith("train.") for step in graph.steps) == trained
    for step in graph.steps:
        if step.name.startswith("soup."):
            assert len(step.needs) == trained - (name != "sweep")


def test_a_sweep_is_trained_run_by_run_from_what_it_says(tmp_path: Path) -> None:
    base = settings(samples=32, warmup=0, ema=0.5)
    tune = {"init": "${train.base}@ema", "samples": 16, "ema": None}
    tune["sweep"] = {"count": 2, "draw": {"lr": {"uniform": [1e-4, 1e-3]}}}
    path = write(tmp_path, yaml.safe_dump({"version": 1, "train": {"base": base, "tune": tune}}))
    results = train_runs(path, tmp_path / "out", "tune", [], IN_PROCESS, SILENT)
    assert list(results) == ["base", "tune-01", "tune-02"]
    assert len({r.fingerprint for r in results.values()}) == 3
    with open_checkpoint(tmp_path / "out" / "base@ema") as average:
        wanted = fingerprint(average).value
    for name in ("tune-01", "tune-02"):
        record = json.loads((tmp_path / "out" / name / "training.json").read_text())
        assert record["parent"]["fingerprint"] == wanted == record["lineage"][0]
