"""Searches and curves over classifiers with a head: what they say is what `evaluate` says of the written soup."""

import copy
import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy

import soupkit
from soupkit.errors import ArchitectureError
from soupkit.evaluation import EvaluationOptions, open_tasks
from soupkit.evaluation.evaluator import Evaluator
from soupkit.evaluation.head_models import tensors_by_file_names
from soupkit.evaluation.head_transform import transform_of
from soupkit.evaluation.heads import HeadOptions
from soupkit.progress import SILENT
from soupkit.ranks import Ranks
from soupkit.search import interpolate
from soupkit.search.ingredients import open_ingredients
from soupkit.search.live_soups import LiveSoups
from soupkit.search.mixing_gradient import MixingGradient
from tests.evaluation.test_heads import MAKERS


def variants(directory: Path, kind: str, count: int) -> list[Path]:
    """A classifier of a kind, and others around it."""
    make, _, _ = MAKERS[kind]
    made = [directory / "v0"]
    make(made[0])
    generator = torch.Generator().manual_seed(1)
    for i in range(1, count):
        made.append(shutil.copytree(made[0], directory / f"v{i}"))
        (file,) = made[i].glob("*.safetensors")
        state = {
            k: v + 0.05 * torch.randn(v.shape, generator=generator) if v.is_floating_point() else v
            for k, v in load_file(file).items()
        }
        save_file(state, file, {"format": "pt"})
    return made


@pytest.mark.parametrize("kind", ["timm", "transformers", "model-soups"])
def test_a_search_and_a_curve_over_classifiers_say_what_evaluate_says(kind: str, tmp_path: Path) -> None:
    refs = variants(tmp_path, kind, 3)
    options = EvaluationOptions(cache=tmp_path / "cache", limit=40, batch_size=20, device="cpu", scores=False)
    result = soupkit.search(refs, tmp_path / "soup", tasks="digits", evaluation=options)
    scores = soupkit.evaluate([*refs, tmp_path / "soup"], ["digits:val"], options=options).scores
    assert [s.value for s in result.document.ingredients] == [s.value for s in scores[:3]]
    assert result.document.score.value == scores[3].value >= max(s.value for s in scores[:3])
    assert any("outputs are classes by" in note for note in result.notes)
    curve = interpolate(refs[0], [refs[1]], tasks=["digits"], points=3, evaluation=options).document
    assert [curve.points[i].scores[0].value for i in (0, 2)] == [scores[0].value, scores[1].value]


def test_classifiers_whose_labels_stand_in_another_order_are_not_averaged(tmp_path: Path) -> None:
    refs = variants(tmp_path, "timm", 2)
    path = refs[1] / "config.json"
    config = json.loads(path.read_text())
    config["label_names"] = config["label_names"][::-1]
    path.write_text(json.dumps(config))
    options = EvaluationOptions(cache=tmp_path / "cache", limit=40, device="cpu")
    with pytest.raises(ArchitectureError):
        soupkit.search(refs, tmp_path / "soup", tasks="digits", evaluation=options)


@pytest.mark.parametrize("kind", ["timm", "transformers", "model-soups"])
def test_the_gradient_by_the_shares_of_classifiers_is_that_of_finite_differences_in_float64(
    kind: str, tmp_path: Path
) -> None:
    """A head without a text tower, whose outputs may stand in another order than the task's classes."""
    refs = [str(path) for path in variants(tmp_path, kind, 3)]
    options = EvaluationOptions(cache=tmp_path / "cache", limit=30, batch_size=8, device="cpu", scores=False)
    with ExitStack() as stack:
        ingredients = open_ingredients(
            refs, tmp_path / "soup", stack, head=HeadOptions(), keep_going=False, memory=None, progress=SILENT
        )
        config, tasks = ingredients.config, open_tasks(["digits"], split="val")
        assert config is not None
        evaluator = stack.enter_context(Evaluator(config, tasks, options))
        live = LiveSoups(ingredients, config, evaluator, 1, Ranks(), SILENT)
        names = list(ingredients.checkpoints[0])
        blocks = (names[-1], "*")  # a part of the head, and all else
        shares, factor, images = np.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]]), 0.8, np.arange(3, 27)
        found = MixingGradient(live, tmp_path).of([0, 1, 2], blocks, shares, factor, images)

        states = [{n: file.read(n).double() for n in names} for file in ingredients.checkpoints]
        model, pixels = copy.deepcopy(evaluator.model).double(), evaluator.pixels[0]
        transform, side = transform_of(config, ""), evaluator.text_side(0).double()
        mean, std = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (transform.mean, transform.std))
        rows = pixels.rows[images]
        x = (torch.from_numpy(pixels.take(rows).copy()).permute(0, 3, 1, 2).double() / 255 - mean) / std
        labels = torch.from_numpy(pixels.labels[rows])
        own = tensors_by_file_names(model, config, ingredients.checkpoints[0])

        def loss(shares: np.ndarray, factor: float) -> float:
            for name in names:
                block = 0 if name == blocks[0] else 1
                mixed = sum(w * state[name] for w, state in zip(shares[block].tolist(), states, strict=True))
                own[name].copy_(torch.as_tensor(mixed).reshape(own[name].shape))
            given = model(x)
            logits = given if isinstance(given, torch.Tensor) else given.logits
            return float(cross_entropy(factor * logits @ side, labels))

        step = 1e-5
        with torch.inference_mode():
            assert found.loss == pytest.approx(loss(shares, factor), rel=1e-5)
            ahead, back = (loss(shares, factor + s) for s in (step, -step))
            assert found.by_factor == pytest.approx((ahead - back) / (2 * step), rel=1e-3, abs=1e-6)
            expected = np.zeros_like(shares)
            for at in np.ndindex(*shares.shape):
                moved = np.zeros_like(shares)
                moved[at] = step
                expected[at] = (loss(shares + moved, factor) - loss(shares - moved, factor)) / (2 * step)
        assert found.by_shares == pytest.approx(expected, rel=2e-3, abs=2e-4 * np.abs(expected).max())


@pytest.mark.parametrize("per", ["model", "layer"])
@pytest.mark.parametrize("kind", ["timm", "model-soups"])
def test_learned_weights_of_classifiers_are_what_merge_writes(kind: str, per: str, tmp_path: Path) -> None:
    refs = variants(tmp_path, kind, 3)
    options = EvaluationOptions(cache=tmp_path / "cache", limit=60, batch_size=20, device="cpu", scores=False)
    given: dict[str, Any] = {"strategy": "learned", "learned_per": per, "epochs": 2, "learned_batch": 20}
    document = soupkit.search(refs, tmp_path / "soup", tasks="digits", evaluation=options, **given).document
    (score,) = soupkit.evaluate([tmp_path / "soup"], ["digits:val"], options=options).scores
    assert document.score.value == score.value >= document.best_ingredient.value
    assert document.facts["learned"]["loss"][1] < document.facts["learned"]["loss"][0]
