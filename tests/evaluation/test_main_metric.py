"""A folder names its main metric, which may be a row that another package has added to the table."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from soupkit.checkpoint import open_checkpoint
from soupkit.errors import DataError
from soupkit.evaluation import EvaluationOptions, Evaluator, evaluate, open_tasks
from soupkit.evaluation.intervals import wilson
from soupkit.evaluation.metrics import METRICS, Estimate, Metric
from soupkit.evaluation.outcomes import Hits
from soupkit.evaluation.tasks import DIGITS
from tests.evaluation.conftest import encoded, picture, write_lists, write_shards

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def digits_of_one_metric(tmp_path: Path) -> Callable[[str], Path]:
    """The shipped digits as a folder that names its main metric."""

    def folder(metric: str) -> Path:
        for name in ("classnames.txt", "zeroshot_classification_templates.txt", "test", "val"):
            (tmp_path / "digits" / name).parent.mkdir(exist_ok=True)
            (tmp_path / "digits" / name).symlink_to(DIGITS / name)
        (tmp_path / "digits" / "main_metric.txt").write_text(f"{metric}\n")
        return tmp_path / "digits"

    return folder


def worst_class(hits: Hits) -> Estimate:
    totals = np.bincount(hits.labels)
    right = np.bincount(hits.labels, weights=hits.top1)
    worst = int((right / totals).argmin())
    return Estimate(float(right[worst] / totals[worst]), *wilson(int(right[worst]), int(totals[worst])))


@pytest.fixture
def strangers_metric(monkeypatch: pytest.MonkeyPatch) -> Metric:
    for state in ("_rows", "_packages"):
        len(METRICS)  # loads the table
        monkeypatch.setattr(METRICS, state, dict(getattr(METRICS, state)))
    return METRICS.add(Metric("worst_class", "classification", worst_class, "the recall of the worst class"))


def test_a_folder_names_its_main_metric(
    digits_of_one_metric: Callable[[str], Path], digit_models: list[Path], tmp_path: Path
) -> None:
    options = EvaluationOptions(cache=tmp_path / "cache")
    (recall,) = evaluate(digit_models[1:], [str(digits_of_one_metric("mean_per_class_recall"))], options=options).scores
    (accuracy,) = evaluate(digit_models[1:], ["digits"], options=options).scores
    assert recall.value == accuracy.metrics["mean_per_class_recall"] != accuracy.value
    assert recall.metric == "mean_per_class_recall" and recall.metrics == accuracy.metrics


@pytest.mark.parametrize(
    ("name", "message"),
    [("acc_1", "did you mean acc1"), ("mean_recall@1", "metric of retrieval tasks, and this is a classification")],
)
def test_a_metric_that_does_not_fit_is_refused_with_those_that_do(
    digits_of_one_metric: Callable[[str], Path], name: str, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        open_tasks([str(digits_of_one_metric(name))])
    assert caught.value.where.endswith("main_metric.txt") and caught.value.hint


def test_a_main_metric_that_the_data_cannot_have_is_an_error(digit_models: list[Path], tmp_path: Path) -> None:
    samples = [{"png": encoded(picture(n), "png"), "cls": str(n % 4).encode()} for n in range(8)]
    folder = write_shards(tmp_path / "four", "test", samples)
    write_lists(folder, list("abcd"), ["{c}"])
    (folder / "main_metric.txt").write_text("acc5\n")
    with pytest.raises(DataError, match="has no acc5, its main metric, on these data"):
        evaluate(digit_models[:1], [str(folder)], options=EvaluationOptions())


def test_a_strangers_metric_is_scored_kept_and_searched_for(
    strangers_metric: Metric,
    digits_of_one_metric: Callable[[str], Path],
    digit_models: list[Path],
    tmp_path: Path,
    inline: Run,
) -> None:
    folder = digits_of_one_metric("worst_class")
    arguments = ["evaluate", *digit_models, "--task", folder, "--cache", tmp_path / "cache", "--json"]
    scores = json.loads(inline(*arguments).stdout)["scores"]
    with (
        open_checkpoint(digit_models[1]) as checkpoint,
        Evaluator(checkpoint.config or {}, open_tasks(["digits"])) as evaluator,
    ):
        evaluator.load(checkpoint)
        (hits,) = evaluator.outcomes()
    assert isinstance(hits, Hits)
    expected = min(hits.top1[hits.labels == c].mean() for c in range(10))
    assert scores[1]["metric"] == "worst_class" and scores[1]["value"] == pytest.approx(expected, abs=1e-12)
    assert list(scores[1]["metrics"]) == ["acc1", "acc5", "mean_per_class_recall", "worst_class"]
    assert json.loads(inline(*arguments).stdout)["scores"] == scores  # the second time from the cache
    done = inline(
        "greedy-search", *digit_models, "--task", folder, "--cache", tmp_path / "cache", "-o", tmp_path / "soup"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "soup" / "search.json").read_text())
    assert found["score"]["metric"] == "worst_class"
    assert found["score"]["value"] == max(d["value"] for d in [*found["ingredients"], *found["decisions"]])


def test_a_score_of_another_version_of_a_metric_is_not_taken_from_the_cache(
    strangers_metric: Metric,
    digits_of_one_metric: Callable[[str], Path],
    digit_models: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, options = str(digits_of_one_metric("worst_class")), EvaluationOptions(cache=tmp_path / "cache")
    (first,) = evaluate(digit_models[1:], [folder], options=options).scores
    better = Metric("worst_class", "classification", lambda _: Estimate(0.5, 0.25, 0.75), "another", version=2)
    monkeypatch.setitem(METRICS._rows, "worst_class", better)
    (second,) = evaluate(digit_models[1:], [folder], options=options).scores
    assert first.value != 0.5 == second.value
