"""Another metric than the tasks' main one selects: what it says of the soup is what `evaluate` says of its file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import entropy

import soupkit
from soupkit.checkpoint.architecture import architecture_of
from soupkit.checkpoint.reference import open_checkpoint
from soupkit.errors import DataError, UsageError
from soupkit.evaluation import EvaluationOptions, open_tasks
from soupkit.evaluation.evaluator import Evaluator


def options(cache: Path) -> EvaluationOptions:
    return EvaluationOptions(cache=cache, limit=120, batch_size=40, device="cpu", scores=False)


def mean_entropy(path: Path, cache: Path) -> float:
    """The mean entropy of a file's predictions on the images that select, by scipy, from its features."""
    with open_checkpoint(path) as file:
        config = architecture_of(file).config
        assert config is not None
        tasks = open_tasks(["digits"], split="val")
        with Evaluator(config, tasks, options(cache), tokenizer_files=file.tokenizer_files) as evaluator:
            evaluator.load(file)
            features = evaluator.features(0, evaluator.pixels[0].rows).double().numpy()
            logits = evaluator.scale * features @ evaluator.text_side(0).double().numpy()
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return float(entropy(p, axis=1).mean())


def test_the_soup_of_the_least_entropy_is_found_without_a_label(
    fine_tunes: list[Path], cache: Path, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"tasks": "digits", "evaluation": options(cache)}
    document = soupkit.search(fine_tunes[:3], tmp_path / "soup", metric="entropy", **given).document
    values = {s.ref: s.value for s in document.ingredients}
    assert document.minimized and document.score.metric == "entropy" and document.score.unit == "number"
    assert document.best_ingredient.value == min(values.values())
    assert document.score.value <= min(values.values())
    for path in (tmp_path / "soup", fine_tunes[1]):
        told = document.score.value if path.name == "soup" else values[str(path)]
        assert told == pytest.approx(mean_entropy(path, cache), abs=1e-6)
    again = soupkit.search(fine_tunes[:3], tmp_path / "soup", metric="entropy", **given)
    assert again.status == "unchanged" and again.document.minimized


def test_a_metric_that_is_a_fraction_becomes_the_main_one(fine_tunes: list[Path], cache: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"tasks": "digits", "evaluation": options(cache)}
    document = soupkit.search(fine_tunes[:3], tmp_path / "soup", metric="mean_per_class_recall", **given).document
    (score,) = soupkit.evaluate([tmp_path / "soup"], ["digits:val"], options=options(cache)).scores
    assert document.score.value == pytest.approx(score.metrics["mean_per_class_recall"])
    assert document.stopping == "exact" and not document.minimized


def test_a_metric_that_cannot_select_is_refused_before_anything_is_scored(
    fine_tunes: list[Path], cache: Path, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"evaluation": options(cache)}
    for metric, message, more in (
        ("temperature", "--metric temperature: says nothing of how good", {"tasks": "digits"}),
        ("mean_average_precision", "is of multilabel, and digits is a task of classification", {"tasks": "digits"}),
        ("nll", "belongs to tasks, and none is named", {"score": lambda path: 1.0}),
        ("nll", "is no term of a sum", {"tasks": "digits", "score": lambda path: 1.0}),
        ("nlll", "--metric: there is no metric 'nlll'", {"tasks": "digits"}),
    ):
        with pytest.raises((UsageError, DataError), match=message):
            soupkit.search(fine_tunes[:2], tmp_path / "soup", metric=metric, **more, **given)
    with pytest.raises(UsageError, match="--proxy: needs a score that is a sum of hits"):
        soupkit.search(fine_tunes[:2], tmp_path / "soup", tasks="digits", metric="nll", proxy=0.5, **given)
    assert not list(tmp_path.iterdir())
