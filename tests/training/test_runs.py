"""The runs of a file: what each takes over, what --set reaches, and what is refused."""

from pathlib import Path

import pytest

from soupkit.errors import UsageError
from soupkit.training.runs import read_runs

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
