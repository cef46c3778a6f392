"""Probabilities of zero-shot models against scipy, scikit-learn and loops written out."""

import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import entropy as scipy_entropy
from sklearn.metrics import log_loss
from torch.nn.functional import normalize

from soupkit.errors import DataError
from soupkit.evaluation import EvaluationOptions, evaluate, open_tasks
from soupkit.evaluation.calibration import best_temperature, chances_of, reliability_bins, with_chances
from soupkit.evaluation.calibration_metrics import CALIBRATION
from soupkit.evaluation.metrics import METRICS
from soupkit.evaluation.outcomes import Hits
from tests.conftest import save

Run = Callable[..., subprocess.CompletedProcess[str]]


def some_logits(seed: int, n: int = 401, classes: int = 7) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, n)
    logits = generator.normal(size=(n, classes)) + 1.5 * np.eye(classes)[labels]
    return logits.astype(np.float32), labels


def nll(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(-log_softmax(logits.astype(float), axis=1)[np.arange(len(labels)), labels].mean())


def ece(logits: np.ndarray, labels: np.ndarray) -> float:
    """Guo et al.'s sum over bins, image by image."""
    p = softmax(logits.astype(float), axis=1)
    total = 0.0
    for m in range(15):
        inside = [i for i in range(len(p)) if m / 15 < p[i].max() <= (m + 1) / 15]
        if inside:
            accuracy = np.mean([p[i].argmax() == labels[i] for i in inside])
            total += len(inside) / len(p) * abs(accuracy - np.mean([p[i].max() for i in inside]))
    return total


def reference(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    def fit(rows: slice) -> float:
        found = minimize_scalar(
            lambda log_t: nll(logits[rows] / np.exp(log_t), labels[rows]), bounds=(-6, 6), method="bounded",
            options={"xatol": 1e-10},
        )  # fmt: skip
        return float(np.exp(found.x))

    p = softmax(logits.astype(float), axis=1)
    even, odd = slice(0, None, 2), slice(1, None, 2)
    crossed = logits.astype(float).copy()
    crossed[even] /= fit(odd)
    crossed[odd] /= fit(even)
    return {
        "ece": ece(logits, labels),
        "nll": log_loss(labels, p, labels=range(p.shape[1])),
        "brier": float(((p - np.eye(p.shape[1])[labels]) ** 2).sum(axis=1).mean()),
        "temperature": fit(slice(None)),
        "ece_at_temperature": ece(crossed, labels),
        "nll_at_temperature": nll(crossed, labels),
    }


def measured(logits: np.ndarray, labels: np.ndarray, scale: float) -> dict[str, float]:
    top1 = logits.argmax(axis=1) == labels
    outcome = with_chances(Hits(top1, None, labels, logits=logits), scale)
    return {name: METRICS[name].compute(outcome).value for name in CALIBRATION}  # type: ignore[union-attr]


@pytest.mark.parametrize("scale", [0.4, 1.0, 5.0])
def test_every_metric_of_probabilities_is_its_reference(scale: float) -> None:
    for seed in range(3):
        logits, labels = some_logits(seed)
        expected = reference(logits * scale, labels)
        found = measured(logits, labels, scale)
        assert found == pytest.approx(expected, abs=2e-6)
        assert found["nll_at_temperature"] >= nll(logits * scale / found["temperature"], labels)
    assert set(expected) == set(CALIBRATION)


def test_the_entropy_is_that_of_the_probabilities_whatever_the_labels_are() -> None:
    logits, labels = some_logits(2)
    hits = [Hits(logits.argmax(axis=1) == of, None, of, logits=logits) for of in (labels, labels[::-1].copy())]
    expected = scipy_entropy(softmax(3.0 * logits.astype(float), axis=1), axis=1).mean()
    for fits in (True, False):
        values = [METRICS["entropy"].compute(with_chances(each, 3.0, fits=fits)).value for each in hits]  # type: ignore[union-attr]
        assert values == pytest.approx([expected, expected], abs=1e-12)


def test_a_temperature_undoes_a_scale() -> None:
    logits, labels = some_logits(0)
    rows = np.arange(len(labels))
    one, ten = (best_temperature(logits, labels, scale, rows) for scale in (1.0, 10.0))
    assert one is not None and ten == pytest.approx(10 * one, rel=1e-6)


@pytest.mark.parametrize("right", [True, False])
def test_a_model_that_is_always_right_or_always_wrong_has_no_temperature(right: bool) -> None:
    labels = np.arange(20) % 4
    logits = np.eye(4, dtype=np.float32)[labels if right else (labels + 1) % 4]
    chances = chances_of(logits, labels, 3.0)
    assert chances.temperature is None and chances.fitted_log_truth is None
    assert np.isfinite(chances.log_truth).all()


def test_logits_that_would_overflow_give_finite_numbers() -> None:
    logits, labels = some_logits(1)
    assert np.isfinite(list(measured(logits * 1000, labels, 0.3).values())).all()
    chances = chances_of(logits * 1000, labels, 1000.0)  # no temperature below 1000 mends these
    assert np.isfinite(chances.log_truth).all() and chances.temperature is None


def test_bins_hold_every_image_once() -> None:
    logits, labels = some_logits(2)
    top1 = logits.argmax(axis=1) == labels
    outcome = with_chances(Hits(top1, None, labels, logits=logits), 1.0)
    bins = reliability_bins(outcome)
    assert sum(b.images for b in bins) == len(labels) and len(bins) == 15
    assert sum(b.images * b.accuracy for b in bins) == pytest.approx(top1.sum())
    distance = sum(b.images * abs(b.accuracy - b.confidence) for b in bins) / len(labels)
    assert distance == pytest.approx(measured(logits, labels, 1.0)["ece"])


@pytest.fixture
def cooler(digit_models: list[Path], tmp_path: Path) -> Path:
    """The second model with a smaller scale, and the same towers."""
    state = load_file(digit_models[1] / "open_clip_model.safetensors")
    config = json.loads((digit_models[1] / "open_clip_config.json").read_text())
    return save(tmp_path / "cooler", {**state, "logit_scale": state["logit_scale"] - 1.0}, config)


def logits_of(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Scaled logits of the shipped digits, by open_clip's own loop."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{path}")
    model.eval()
    (task,) = open_tasks(["digits"])
    samples = [task.dataset.read(i) for i in range(len(task.dataset))]
    images = torch.stack([preprocess(PIL.Image.open(io.BytesIO(s.data)).convert("RGB")) for s in samples])
    templates = [lambda c, t=t: t.replace("{c}", c) for t in task.templates]
    with torch.inference_mode():
        tokenizer = open_clip.get_tokenizer(f"local-dir:{path}")
        classifier = open_clip.build_zero_shot_classifier(model, tokenizer, task.classnames, templates)
        logits = model.logit_scale.exp() * (normalize(model.encode_image(images), dim=-1) @ classifier)
    return logits.numpy(), np.array([s.label for s in samples])


def test_models_of_equal_towers_have_probabilities_by_their_own_scales(
    digit_models: list[Path], cooler: Path, tmp_path: Path
) -> None:
    options = EvaluationOptions(cache=tmp_path / "cache")
    plain = evaluate([digit_models[1]], ["digits"], options=options).scores
    result = evaluate([digit_models[1], cooler], ["digits"], options=options, calibration=True)
    assert [score.value for score in result.scores] == [plain[0].value] * 2
    for score, path in zip(result.scores, (digit_models[1], cooler), strict=True):
        expected = reference(*logits_of(path))
        assert {name: score.metrics[name] for name in CALIBRATION} == pytest.approx(expected, abs=1e-4)
    one, other = result.reliability
    assert one.bins != other.bins and sum(b.images for b in one.bins) == 497
    again = evaluate([digit_models[1], cooler], ["digits"], options=options, calibration=True)
    assert again.scores == result.scores and again.reliability == result.reliability
    assert evaluate([digit_models[1]], ["digits"], options=options).scores == plain


def test_the_command_shows_probabilities_and_writes_the_diagram(
    digit_models: list[Path], tmp_path: Path, inline: Run
) -> None:
    from soupkit.evaluation.scores_document import read_scores_document

    arguments = ["evaluate", digit_models[1], "--task", "digits", "--calibration", "--cache", tmp_path / "cache"]
    done = inline(*arguments, "-o", tmp_path / "scores.json")
    document = read_scores_document(tmp_path / "scores.json")
    assert f"{document.scores[0].metrics['ece']:.4f}" in done.stdout and "ECE at T" in done.stdout
    assert len(document.reliability[0].bins) == 15
    assert "reliability" not in json.loads(inline(*arguments[:4], "--json").stdout)


def test_a_model_is_not_chosen_by_its_calibration(colours: Path) -> None:
    (colours / "main_metric.txt").write_text("ece\n")
    with pytest.raises(DataError, match="names ece, which a model cannot be chosen by"):
        open_tasks([str(colours)])
