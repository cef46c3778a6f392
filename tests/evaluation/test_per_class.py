"""What is right class by class is counted from the hits, kept in the cache, and written where it was asked for."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import soupkit
from soupkit.errors import UsageError
from soupkit.evaluation import EvaluationOptions, evaluate, open_tasks
from soupkit.evaluation.outcomes import Hits, class_counts

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_classes_are_counted_also_those_that_have_no_image() -> None:
    labels = np.array([0, 2, 2, 2, 0])
    top1 = np.array([True, False, True, True, False])
    assert class_counts(Hits(top1, None, labels), 4) == ((2, 0, 3, 0), (1, 0, 2, 0))


def test_counts_by_class_sum_to_the_score_and_come_from_the_cache_again(
    digit_models: list[Path], tmp_path: Path
) -> None:
    options = EvaluationOptions(cache=tmp_path / "cache", limit=100)
    plain = evaluate([digit_models[1]], ["digits"], options=options)
    counted = evaluate([digit_models[1]], ["digits"], options=options, per_class=True)
    again = evaluate([digit_models[1]], ["digits"], options=options, per_class=True)
    (task,), (by_class,) = open_tasks(["digits"]), counted.classes
    labels = [task.dataset.read(i).label for i in task.dataset.some(100)]
    assert plain.classes == () and again.classes == counted.classes
    assert by_class.classes == task.classnames and by_class.images == tuple(labels.count(c) for c in range(10))
    assert sum(by_class.right) == round(100 * counted.scores[0].value)


def test_the_command_writes_them_on_demand(digit_models: list[Path], tmp_path: Path, inline: Run) -> None:
    arguments = ["evaluate", digit_models[1], "--task", "digits", "--limit", "100", "--cache", tmp_path / "cache"]
    plain = json.loads(inline(*arguments, "--json").stdout)
    inline(*arguments, "--per-class", "-o", tmp_path / "scores.json")
    document = json.loads((tmp_path / "scores.json").read_text())
    assert "classes" not in plain and sum(document["classes"][0]["images"]) == 100


def test_probes_are_not_counted(digit_models: list[Path]) -> None:
    with pytest.raises(UsageError, match="--per-class: counts no probes"):
        soupkit.evaluate(digit_models[1], "digits", probe=1, per_class=True)
