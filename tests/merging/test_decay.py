"""Snapshots of a run at a constant rate, weighted as a decay of the rate would have weighted what came between them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from soupkit.errors import UsageError
from soupkit.merging import read_soup
from soupkit.merging.decay import CURVES, decay_weights, expanded, snapshots
from tests.processes import soupkit


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of 300 samples with three snapshots, whose one tensor counts its hundreds."""
    root = tmp_path / "run"
    for samples in (50, 100, 200):
        (root / f"samples={samples}").mkdir(parents=True)
        save_file({"x": torch.full((2,), samples / 100)}, root / f"samples={samples}" / "open_clip_model.safetensors")
    save_file({"x": torch.full((2,), 3.0)}, root / "open_clip_model.safetensors")
    record = {"schema": 1, "lineage": [], "samples": 300, "output": {"fingerprint": "xxh3:0"}}
    (root / "training.json").write_text(json.dumps(record))
    return root


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("count", [2, 3, 10])
def test_what_was_learnt_between_two_snapshots_counts_as_much_as_the_curve_has_left(curve: str, count: int) -> None:
    points = np.random.default_rng(0).normal(size=count)
    left = {"1-sqrt": lambda x: 1 - x**0.5, "linear": lambda x: 1 - x, "cosine": lambda x: (1 + np.cos(np.pi * x)) / 2}
    steps = np.diff(points)
    want = points[0] + sum(left[curve]((j + 1) / count) * step for j, step in enumerate(steps))
    weights = decay_weights(curve, count)
    assert sum(weights) == pytest.approx(1) and np.dot(weights, points) == pytest.approx(want)


def test_the_linear_decay_is_the_plain_mean() -> None:
    assert decay_weights("linear", 4) == pytest.approx([0.25] * 4)


def test_snapshots_come_in_the_order_of_training_and_the_final_weights_last(run: Path) -> None:
    assert snapshots(run) == [*(str(run / f"samples={n}") for n in (50, 100, 200)), str(run)]


def test_a_recipe_merges_a_run_by_its_decay(run: Path, tmp_path: Path) -> None:
    (tmp_path / "soup.yaml").write_text(f"run: {run}\ndecay: linear\n")
    soup = expanded(read_soup(tmp_path / "soup.yaml"))
    assert (soup.method, soup.run, len(soup.ingredients)) == ("linear", None, 4)
    done = soupkit("merge", "--recipe", "soup.yaml", "-o", "soup", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (weights,) = (tmp_path / "soup").glob("*.safetensors")
    torch.testing.assert_close(load_file(weights)["x"], torch.full((2,), (0.5 + 1 + 2 + 3) / 4))
    by_option = soupkit("merge", run, "--decay", "1-sqrt", "-o", "other", cwd=tmp_path)
    assert by_option.returncode == 0, by_option.stderr
    shares = [i["weight"] for i in json.loads((tmp_path / "other" / "soup.json").read_text())["ingredients"]]
    assert shares == pytest.approx(decay_weights("1-sqrt", 4))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("decay: linear\n", "has no ingredients"),
        ("run: runs/a\nweight: [1, 2]\n", "has weights beside a run"),
        ("run: runs/a\ndecay: cubic\n", "decay: input should be '1-sqrt', 'linear' or 'cosine'"),
        ("run: '${train.a}'\n", "stands for another step"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "soup.yaml").write_text(text)
    with pytest.raises(UsageError) as caught:
        read_soup(tmp_path / "soup.yaml")
    assert words in caught.value.what and "soup.yaml, line" in caught.value.where


def test_a_run_without_snapshots_and_what_is_no_run_are_refused(run: Path, tmp_path: Path) -> None:
    for snapshot in run.glob("samples=*"):
        snapshot.rename(tmp_path / snapshot.name)
    with pytest.raises(UsageError, match="no snapshots"):
        snapshots(run)
    with pytest.raises(UsageError, match="no finished run"):
        snapshots(tmp_path)
