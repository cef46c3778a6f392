"""What `soupkit run --dry-run` says that a recipe costs, against arithmetic by hand and the literature."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from soupkit.checkpoint import open_checkpoint
from soupkit.evaluation.known_tasks import SUITES
from soupkit.evaluation.sizes import task_sizes
from soupkit.recipe.run import RunResult, run_recipe
from soupkit.training.cost import model_cost
from tests.conftest import TINY_MODEL
from tests.processes import soupkit

RECIPE = Path(__file__).parents[2] / "recipes" / "vit-bigg-14-laion2b.yaml"
BIGG = 2_539_567_105  # parameters, as counted by torch; open_clip publishes 2539.57 M
SHIFTS = {"wds/imagenet1k": 50_000, "wds/imagenetv2": 10_000, "wds/imagenet-a": 7_500, "wds/imagenet-r": 30_000,
          "wds/imagenet_sketch": 50_889, "wds/objectnet": 18_574}  # fmt: skip


# Tasks whose templates, or images, no publication counts.
UNPUBLISHED = (
    "wds/wilds/iwildcam", "wds/wilds/fmow", "wds/fairness/dollar_street", "wds/fairness/geode", "wds/winogavil",
)  # fmt: skip


def test_the_literature_s_recipe_is_shown_whole_with_what_it_costs(tmp_path: Path) -> None:
    done = soupkit("run", RECIPE, "--dry-run", "--world-size", 500, "--rate", 150, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    steps = {s["name"]: s["cost"] for s in json.loads(done.stdout)["steps"]}
    trained = [f"train.{name}" for name in ("stage1", "stage2-a", "stage2-b", "stage2-c")]
    assert list(steps) == [*trained, "soup.uniform", "soup.greedy", "evaluate", "report", "push"]
    stage1, uniform, greedy, scored = (steps[s] for s in ("train.stage1", "soup.uniform", "soup.greedy", "evaluate"))
    assert stage1["training"]["steps"] == 200_000 and stage1["training"]["parameters"] == BIGG
    assert stage1["days"] == pytest.approx(stage1["operations"] / (500 * 150e12) / 86400)
    assert (uniform["bytes_read"], uniform["bytes_written"]) == (3 * 4 * BIGG, 4 * BIGG)
    assert greedy["images"] == 25_000 * (3 + 2)  # each alone, and two trials after the best one
    sizes = task_sizes("datacomp-38")
    assert scored["images"] == 6 * sum(s.images or 0 for s in sizes)
    assert all(any(name in line for name in UNPUBLISHED) for line in scored["unknown"])
    # As many operations as open_clip publishes for one image with one caption, 1065.36 G, divided among the towers.
    assert 0.8 * 967e9 < scored["operations"] / scored["images"] < 1065.36e9 * 1.3
    assert steps["push"]["bytes_written"] == 4 * BIGG and not list(tmp_path.iterdir())


def test_every_task_of_the_suites_has_a_size() -> None:
    assert {s.name: s.images for s in task_sizes("imagenet-shift")} == SHIFTS
    for name in SUITES["datacomp-38"]:
        (size,) = task_sizes(name)
        assert (size.images and size.prompts) or name in UNPUBLISHED, name
    (digits,) = task_sizes("digits:val")
    assert (digits.images, digits.prompts) == (300, 80)
    (lost,) = task_sizes("/data/nowhere:val")
    assert lost.images is None
    (fmow,) = task_sizes("FMoW")
    assert (fmow.images, fmow.prompts) == (22_108, None)


def planned(tmp_path: Path, sections: dict[str, Any]) -> RunResult:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "name": "small", **sections}))
    return run_recipe(path, tmp_path / "out", dry_run=True)


def test_what_is_there_is_measured_and_what_is_not_known_is_said(tiny_clips: list[Path], tmp_path: Path) -> None:
    a, b = map(str, tiny_clips[1:])
    with open_checkpoint(a) as checkpoint:
        weights = sum(spec.nbytes for spec in checkpoint.tensors.values())
    cost = model_cost(TINY_MODEL, patch_dropout=0, checkpointing=False, bf16=False)
    result = planned(
        tmp_path,
        {
            "soup": {
                "half": {"ingredients": [a, b], "dtype": "float16"},
                "lost": {"ingredients": [a, str(tmp_path / "nothing")]},
                "swapped": {"ingredients": [a, b], "search": "swap", "task": "digits"},
            },
            "evaluate": {"refs": [a, "${soup.half}"], "tasks": ["digits", str(tmp_path / "none")]},
        },
    )
    half, lost, swapped = (result.costs[f"soup.{n}"] for n in ("half", "lost", "swapped"))
    assert (half.bytes_read, half.bytes_written) == (2 * weights, weights // 2)
    assert lost.bytes_read is None and "nothing" in lost.unknown[0] and "swap" in swapped.unknown[0]
    scored = result.costs["evaluate"]
    assert (scored.images, scored.prompts) == (2 * 497, 2 * 80) and "none" in scored.unknown[0]
    assert scored.operations == 2 * (497 * cost.image + 80 * (cost.forward - cost.image))
    assert not (tmp_path / "out").exists()


def test_what_has_not_changed_costs_nothing(tiny_clips: list[Path], tmp_path: Path) -> None:
    sections = {"soup": {"one": {"ingredients": [str(p) for p in tiny_clips[1:]]}}}
    planned(tmp_path, sections)
    run_recipe(tmp_path / "recipe.yaml", tmp_path / "out")
    again = planned(tmp_path, sections)
    assert [s.status for s in again.steps] == ["unchanged"] and not again.costs
