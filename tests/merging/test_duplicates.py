"""Ingredients that are the same weights are one ingredient: said, and no error."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from soupkit.errors import UsageError
from soupkit.merging import RunOptions, merge
from tests.conftest import random_state, save

WEIGHTS = "open_clip_model.safetensors"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two models, and the first again: under another path, as a link, as a hard link, as a copy, in another dtype."""
    folder = tmp_path_factory.mktemp("models")
    one, two = (save(folder / name, random_state(seed)) for seed, name in enumerate("ab"))
    (folder / "link").symlink_to(one)
    (folder / "hard").mkdir()
    os.link(one / WEIGHTS, folder / "hard" / WEIGHTS)
    shutil.copytree(one, folder / "copy")
    save(folder / "half", {name: tensor.half() for name, tensor in random_state(0).items()})
    state = random_state(0)
    last = list(state)[-1]
    state[last] = state[last].clone()
    state[last].view(-1)[-1] += 1
    save(folder / "almost", state)
    return {"a": one, "b": two, "path": folder / "x" / ".." / "a", **{n: folder / n for n in ("link", "hard", "copy")},
            "half": folder / "half", "almost": folder / "almost"}  # fmt: skip


def weights_of(soup: Path) -> dict[str, torch.Tensor]:
    return load_file(soup / WEIGHTS)


@pytest.mark.parametrize("again", ["a", "path", "link", "hard", "copy"])
def test_the_same_weights_count_once_however_they_are_named(
    again: str, models: dict[str, Path], tmp_path: Path
) -> None:
    (models["a"].parent / "x").mkdir(exist_ok=True)
    plain = merge([models["a"], models["b"]], tmp_path / "plain")
    soup = merge([models["a"], models["b"], models[again]], tmp_path / "soup")
    assert soup.fingerprint == plain.fingerprint and [i["weight"] for i in soup.ingredients] == [0.5, 0.5]
    said = [note for note in soup.notes if "weights that are given" in note]
    assert len(said) == 1 and str(models["a"]) in said[0]
    (record, _) = json.loads((tmp_path / "soup" / "soup.json").read_text())["ingredients"]
    assert record.get("copies") == (None if again == "a" else [str(models[again])])


def test_weights_of_the_same_ingredient_are_added(models: dict[str, Path], tmp_path: Path) -> None:
    refs = [models["a"], models["b"], models["copy"], models["a"]]
    soup = merge(refs, tmp_path / "soup", weights=[1, 2, 1, 4])
    want = merge(refs[:2], tmp_path / "want", weights=[6, 2])
    assert soup.fingerprint == want.fingerprint and [i["weight"] for i in soup.ingredients] == [0.75, 0.25]
    by_pattern = {"weight": {"visual.*": [1, 2, 1, 4], "*": 1}}
    soup = merge(refs, tmp_path / "by-pattern", method="linear", parameters=by_pattern)
    want = merge(
        refs[:2], tmp_path / "want-by-pattern", method="linear", parameters={"weight": {"visual.*": [6, 2], "*": 1}}
    )
    assert soup.fingerprint == want.fingerprint


@pytest.mark.parametrize("other", ["half", "almost"])
def test_what_differs_in_one_bit_or_in_its_dtype_is_another_ingredient(
    other: str, models: dict[str, Path], tmp_path: Path
) -> None:
    soup = merge([models["a"], models[other]], tmp_path / "soup")
    assert len(soup.ingredients) == 2 and not any("one ingredient" in note for note in soup.notes)


def test_a_mean_of_one_model_is_that_model(models: dict[str, Path], tmp_path: Path) -> None:
    soup = merge([models["a"], models["copy"]], tmp_path / "soup")
    assert [i["weight"] for i in soup.ingredients] == [1.0]
    first = load_file(models["a"] / WEIGHTS)
    assert all(torch.equal(tensor, first[name]) for name, tensor in weights_of(tmp_path / "soup").items())


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ({"method": "slerp"}, "needs at least 2 checkpoints and got 1 ingredient, 2 times"),
        ({"method": "linear", "weights": [1]}, "gives 1 weights for 2 ingredients"),
        ({"method": "ties", "base": "b", "parameters": {"density": [0.2, 0.3]}}, "says different things of the same"),
    ],
)
def test_what_cannot_be_meant_is_an_error(
    how: dict[str, Any], what: str, models: dict[str, Path], tmp_path: Path
) -> None:
    how = {**how, **({"base": models[how["base"]]} if "base" in how else {})}
    with pytest.raises(UsageError, match=what):
        merge([models["a"], models["copy"]], tmp_path / "soup", **how)
    assert not (tmp_path / "soup").exists()


def test_done_again_it_is_the_same_soup_and_in_memory_too(models: dict[str, Path], tmp_path: Path) -> None:
    refs = [models["a"], models["copy"], models["b"]]
    merge(refs, tmp_path / "soup")
    assert merge(refs, tmp_path / "soup").status == "unchanged"
    assert merge(refs, tmp_path / "dry", options=RunOptions(dry_run=True)).status == "planned"
    states = [random_state(0), random_state(1), random_state(0)]
    in_memory, want = merge(states), weights_of(tmp_path / "soup")
    assert all(torch.equal(tensor, want[name]) for name, tensor in in_memory.items())
