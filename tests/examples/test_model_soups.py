"""The model-soups paper's recipe in miniature, from the CLIP to the way back from its soup."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from soupkit.evaluation import EvaluationOptions
from soupkit.recipe.run import run_recipe
from soupkit.search.interpolation import interpolate
from soupkit.training import TrainOptions

RECIPE = Path(__file__).parents[2] / "examples" / "model_soups.yaml"
WEIGHTS = "open_clip_model.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EvaluationOptions]:
    """The example with a tenth of its training, two fine-tunes and no figures."""
    place = tmp_path_factory.mktemp("model-soups")
    recipe: dict[str, Any] = yaml.safe_load(RECIPE.read_text())
    recipe["train"]["clip"] |= {"samples": 1600, "warmup": 160}
    recipe["train"]["tune"] |= {"samples": 320, "warmup": 40}
    recipe["train"]["tune"]["sweep"]["count"] = 2
    del recipe["report"]
    (place / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    evaluation = EvaluationOptions(device="cpu", cache=place / "cache")
    training = TrainOptions(device="cpu", workers=0, threads=1, cache=None)
    run_recipe(place / "recipe.yaml", place / "run", training=training, evaluation=evaluation)
    return place / "run", evaluation


def test_soups_of_the_fine_tunes_are_scored_beside_the_zero_shot_classifier(
    made: tuple[Path, EvaluationOptions],
) -> None:
    run, _ = made
    scores = {Path(s["ref"]).name: s["value"] for s in json.loads((run / "scores.json").read_text())["scores"]}
    assert list(scores) == ["clip", "zeroshot", "tune-01", "tune-02", "uniform", "greedy", "half-way"]
    assert scores["clip"] == scores["zeroshot"]
    chosen = json.loads((run / "soup" / "greedy" / "search.json").read_text())
    assert chosen["selected"] and len(chosen["decisions"]) == 2
    one, other, soup = (load_file(run / p / WEIGHTS) for p in ("train/tune-01", "train/tune-02", "soup/uniform"))
    name = "classification_head.weight"
    assert soup[name].allclose((one[name] + other[name]) / 2, atol=1e-6)
    assert not one[name].equal(other[name])


def test_the_curve_leads_from_the_zero_shot_classifier_to_the_soup(made: tuple[Path, EvaluationOptions]) -> None:
    run, evaluation = made
    ends = run / "train" / "zeroshot", run / "soup" / "uniform"
    curve = interpolate(ends[0], [ends[1]], tasks=["digits:test"], points=3, evaluation=evaluation)
    values = [point.scores[0].value for point in curve.document.points]
    scores = {Path(s["ref"]).name: s["value"] for s in json.loads((run / "scores.json").read_text())["scores"]}
    assert values == [scores[name] for name in ("zeroshot", "half-way", "uniform")]
