"""The recipes of docs/extending.md, installed as packages and driven by the commands that stand there."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import soupkit
from soupkit.evaluation import EvaluationOptions
from tests.conftest import save
from tests.docs.pages import ROOT, blocks

PAGE = (ROOT / "docs" / "extending.md").read_text()
SECTIONS = re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
RECIPES = {title: dict(blocks(text)) for title, text in SECTIONS if "```toml" in text}


@dataclass(frozen=True)
class Installed:
    """A recipe whose package is installed: where it works, and how its commands are run."""

    directory: Path
    commands: tuple[str, ...]

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        line = command.replace("soupkit ", f"{shlex.quote(sys.executable)} -m soupkit ", 1)
        path = os.pathsep.join([str(self.directory / "site"), str(ROOT)])
        variables = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "NO_COLOR": "1"}
        variables["SOUPKIT_CACHE"] = str(self.directory / "cache")
        done = subprocess.run(line, shell=True, cwd=self.directory, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done

    def run_all(self) -> list[str]:
        return [self.run(command).stdout for command in self.commands]


def weights(soup: Path) -> dict[str, torch.Tensor]:
    with soupkit.open_checkpoint(soup) as checkpoint:
        return {name: checkpoint[name].clone() for name in checkpoint.tensors}


def state(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in (("a.weight", (6, 5)), ("a.bias", (7,)))}


@pytest.fixture
def install(tmp_path: Path) -> Callable[[str], Installed]:
    def install(title: str) -> Installed:
        recipe = RECIPES[title]
        module = re.match(r"# (\w+)\.py\n", recipe["python"])
        entry = re.match(r'\[project\.entry-points\."([\w.]+)"\]\n(\w+) = "(.+)"\n$', recipe["toml"])
        assert module is not None and entry is not None
        site = tmp_path / "site"
        information = site / f"{module[1]}-1.0.dist-info"
        information.mkdir(parents=True)
        (site / f"{module[1]}.py").write_text(recipe["python"])
        (information / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {module[1].replace('_', '-')}\nVersion: 1.0\n"
        )
        (information / "entry_points.txt").write_text(f"[{entry[1]}]\n{entry[2]} = {entry[3]}\n")
        commands = tuple(line.removeprefix("$ ") for line in recipe["console"].splitlines())
        return Installed(tmp_path, commands)

    return install


def test_every_table_has_a_recipe_and_every_recipe_a_test() -> None:
    from soupkit.extensions import all_tables

    groups = {re.findall(r'entry-points\."([\w.]+)"', recipe["toml"])[0] for recipe in RECIPES.values()}
    assert groups == set(all_tables())
    tested = {name for name in globals() if name.startswith("test_") and "_recipe_of_" in name}
    assert {name.partition("_recipe_of_")[2].replace("_", " ").capitalize() for name in tested} == set(RECIPES)


def test_the_recipe_of_a_merge_method(install: Callable[[str], Installed]) -> None:
    package = install("A merge method")
    states = [state(i) for i in range(3)]
    for name, tensors in zip("abc", states, strict=True):
        save(package.directory / "runs" / name, tensors)
    package.run_all()
    soup = weights(package.directory / "soups" / "midrange")
    for name in soup:
        stacked = np.stack([tensors[name].double().numpy() for tensors in states])
        middle, mean = (stacked.min(axis=0) + stacked.max(axis=0)) / 2, stacked.mean(axis=0)
        np.testing.assert_allclose(soup[name].numpy(), 0.5 * middle + 0.5 * mean, rtol=1e-6, atol=1e-7)
    document = json.loads((package.directory / "soups" / "midrange" / "soup.json").read_text())
    assert document["method"] == "midrange" and document["parameters"]["share"] == 0.5
    assert "share=1.0" in package.run("soupkit merge --help").stdout


def test_the_recipe_of_a_search_strategy(
    install: Callable[[str], Installed], tiny_clips: list[Path], tmp_path: Path
) -> None:
    package = install("A search strategy")
    (package.directory / "runs").mkdir()
    for name, place in zip("abc", tiny_clips, strict=True):
        (package.directory / "runs" / name).symlink_to(place)
    package.run_all()
    document = json.loads((package.directory / "soups" / "pair" / "search.json").read_text())
    refs = [f"runs/{name}" for name in "abc"]
    evaluation = EvaluationOptions(cache=tmp_path / "own-cache", device="cpu", limit=100)

    def accuracy(*names: str) -> float:
        places = [package.directory / name for name in names]
        target = tmp_path / "own" / "-".join(p.name for p in places)
        model = soupkit.merge(places, target).output if len(places) > 1 else places[0]
        (score,) = soupkit.evaluate([model], ["digits:val"], options=evaluation).scores
        return score.value

    alone = {ref: accuracy(ref) for ref in refs}
    best, *others = sorted(refs, key=lambda ref: -alone[ref])
    selected, value = [best], alone[best]
    for other in others:
        if (pair := accuracy(best, other)) >= value:
            selected, value = [best, other], pair
    assert document["selected"] == selected and document["score"]["value"] == pytest.approx(value)
    assert [decision["action"] for decision in document["decisions"]] == ["start", "pair", "pair"]


def test_the_recipe_of_a_metric(install: Callable[[str], Installed], tiny_clips: list[Path]) -> None:
    package = install("A metric")
    (package.directory / "runs").mkdir()
    for name, place in zip("ab", tiny_clips[1:], strict=True):
        (package.directory / "runs" / name).symlink_to(place)
    shutil.copytree(ROOT / "soupkit" / "data" / "digits", package.directory / "data")
    package.run_all()
    scores = json.loads((package.directory / "scores.json").read_text())["scores"]
    assert [score["metric"] for score in scores] == ["weakest_class"] * 2
    for score in scores:
        recall = score["metrics"]["mean_per_class_recall"]
        assert 0 <= score["low"] <= score["value"] + 1e-9 and score["value"] <= score["high"] <= 1
        assert score["value"] <= recall


def test_the_recipe_of_a_format(install: Callable[[str], Installed]) -> None:
    package = install("A format")
    (package.directory / "weights").mkdir()
    states = [state(i) for i in range(2)]
    for name, tensors in zip("ab", states, strict=True):
        np.savez(package.directory / "weights" / f"{name}.npz", **{k: v.numpy() for k, v in tensors.items()})
    package.run_all()
    soup = weights(package.directory / "soups" / "npz")
    for name, tensor in soup.items():
        mean = (states[0][name].double() + states[1][name].double()) / 2
        torch.testing.assert_close(tensor, mean.float(), rtol=0, atol=0)
    (row,) = [line for line in package.run("soupkit plugins").stdout.splitlines() if line.startswith("npz ")]
    assert "soupkit-npz" in row
