"""A package that adds one row to each table is driven from the command line; a broken one ends nothing else."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from soupkit.evaluation.tasks import DIGITS
from tests.conftest import random_state, save
from tests.processes import environment

PACKAGE = Path(__file__).parents[1] / "plugin_package"


def soupkit(*arguments: object, packages: Path = PACKAGE, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the command line where the packages in `packages` are installed, in a new interpreter."""
    path = f"{packages}:{Path(__file__).parents[2]}"
    command = [sys.executable, "-m", "soupkit", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**environment(), "PYTHONPATH": path, **more})


def rows(done: subprocess.CompletedProcess[str], group: str) -> dict[str, str]:
    """Return the packages of the rows of one table, by name."""
    assert done.returncode == 0, done.stderr
    return {row["name"]: row["package"] for row in json.loads(done.stdout)["tables"][group]["rows"]}


def test_plugins_says_where_each_row_is_from() -> None:
    done = soupkit("plugins", "--json")
    added = {
        "soupkit.methods": "salted",
        "soupkit.strategies": "pairs",
        "soupkit.metrics": "worst_class",
        "soupkit.formats": "salted_file",
    }
    for group, name in added.items():
        packages = rows(done, group)
        assert packages.pop(name) == "soup-spices" and set(packages.values()) == {"soupkit"}, group
    shown = soupkit("plugins").stdout
    assert all(name in shown for name in added.values()) and shown.count("soup-spices") == 4


def test_a_method_of_another_package_merges_is_listed_and_is_cited(tiny_clips: list[Path], tmp_path: Path) -> None:
    done = soupkit(
        "merge", *tiny_clips[1:], "-o", tmp_path / "soup", "--method", "salted", "--param", "grains=2", "--json"
    )
    assert done.returncode == 0, done.stderr
    states = [load_file(clip / "open_clip_model.safetensors") for clip in tiny_clips[1:]]
    soup = load_file(tmp_path / "soup" / "open_clip_model.safetensors")
    for name, tensor in soup.items():
        torch.testing.assert_close(tensor, (states[0][name] + states[1][name]) / 2 + 2)
    assert "grains=1.0" in soupkit("merge", "--help").stdout
    wrong = soupkit("merge", *tiny_clips[1:], "-o", tmp_path / "x", "--method", "salted", "--param", "grains=10")
    assert wrong.returncode == 2 and "grains" in wrong.stderr
    push = soupkit(
        "push", tmp_path / "soup", "me/soup", "--license", "mit", "--folder", tmp_path / "hub", HF_HUB_OFFLINE="1"
    )
    assert push.returncode == 0, push.stderr
    assert "https://example.org/salt" in (tmp_path / "hub" / "README.md").read_text()


def test_a_strategy_of_another_package_searches_with_its_own_option(tiny_clips: list[Path], tmp_path: Path) -> None:
    done = soupkit(
        "search", *tiny_clips, "-o", tmp_path / "soup", "--task", "digits", "--limit", "40",
        "--strategy", "pairs", "--option", "most=2", "--no-cache", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    search = json.loads((tmp_path / "soup" / "search.json").read_text())
    assert search["strategy"] == "pairs" and [d["action"] for d in search["decisions"]] == ["start", "season", "season"]


def test_a_metric_of_another_package_is_what_a_folder_is_scored_by(tiny_clips: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "digits"
    folder.mkdir()
    for name in ("classnames.txt", "zeroshot_classification_templates.txt", "test", "val"):
        (folder / name).symlink_to(DIGITS / name)
    (folder / "main_metric.txt").write_text("worst_class\n")
    done = soupkit("evaluate", tiny_clips[0], "--task", folder, "--limit", "60", "--no-cache", "--json")
    assert done.returncode == 0, done.stderr
    (score,) = json.loads(done.stdout)["scores"]
    assert score["metric"] == "worst_class" and score["value"] == score["metrics"]["worst_class"]
    assert score["value"] <= score["metrics"]["acc1"]
    alone = soupkit("evaluate", tiny_clips[0], "--task", folder, "--no-cache", packages=tmp_path / "none")
    assert alone.returncode == 1 and "worst_class" in alone.stderr


def test_a_checkpoint_in_a_format_of_another_package_is_inspected_and_merged(tmp_path: Path) -> None:
    state = random_state(1)
    path = tmp_path / "a.salted"
    shapes = json.dumps({name: list(tensor.shape) for name, tensor in state.items()})
    path.write_bytes(shapes.encode() + b"\n" + b"".join(t.numpy().astype(np.float32).tobytes() for t in state.values()))
    inspected = soupkit("inspect", path, "--json")
    assert inspected.returncode == 0 and json.loads(inspected.stdout)["tensors"] == len(state), inspected.stderr
    done = soupkit("merge", path, save(tmp_path / "b", random_state(2)), "-o", tmp_path / "soup")
    assert done.returncode == 0, done.stderr
    soup = load_file(tmp_path / "soup" / "open_clip_model.safetensors")
    for name, tensor in random_state(2).items():
        torch.testing.assert_close(soup[name], (state[name] + tensor) / 2)


@pytest.fixture
def broken_package(tmp_path: Path) -> Path:
    """A package whose merge method cannot be loaded."""
    packages = tmp_path / "packages"
    about = packages / "rotten-1.dist-info"
    about.mkdir(parents=True)
    (packages / "rotten.py").write_text("raise RuntimeError('out of\\ndate')\n")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: rotten\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[soupkit.methods]\nfish = rotten:fish\n")
    return packages


def test_a_broken_package_is_named_and_ends_nothing_that_does_not_need_it(
    broken_package: Path, tiny_clips: list[Path], tmp_path: Path
) -> None:
    listed = soupkit("plugins", "--json", packages=broken_package)
    tables: dict[str, Any] = json.loads(listed.stdout)["tables"]
    (broken,) = tables["soupkit.methods"]["broken"]
    assert broken["package"] == "rotten" and "RuntimeError" in broken["error"] and listed.stderr == ""
    assert all(not tables[group]["broken"] for group in tables if group != "soupkit.methods")
    assert (
        "warning: the plug-in 'fish' of rotten cannot be loaded" in soupkit("plugins", packages=broken_package).stdout
    )
    merged = soupkit("merge", *tiny_clips[1:], "-o", tmp_path / "soup", packages=broken_package)
    assert merged.returncode == 0, merged.stderr
    warnings = [line for line in merged.stderr.splitlines() if "rotten" in line]
    assert len(warnings) == 1 and warnings[0].startswith("warning: the plug-in 'fish' of rotten cannot be loaded: ")
    assert "out of date" in warnings[0]
    inspected = soupkit("inspect", tiny_clips[0], packages=broken_package)
    assert inspected.returncode == 0 and "rotten" not in inspected.stderr, "it reads no table of methods"
    wanted = soupkit("merge", *tiny_clips[1:], "-o", tmp_path / "x", "--method", "fish", packages=broken_package)
    assert wanted.returncode == 2 and "rotten" in wanted.stderr.partition("hint: ")[2]
