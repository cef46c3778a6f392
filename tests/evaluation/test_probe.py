"""Linear probes against scikit-learn on open_clip's own features, and against clip-benchmark's."""

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
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import normalize

from soupkit.errors import ArchitectureError, DataError, UsageError
from soupkit.evaluation import EvaluationOptions, Evaluator, evaluate, open_tasks
from soupkit.evaluation.probe import Probe, fit_probe, parse_probe, training_rows
from tests.evaluation.conftest import encoded, picture, write_lists, write_shards
from tests.evaluation.test_evaluator import altered

Run = Callable[..., subprocess.CompletedProcess[str]]
N = 100


def features_of(path: Path, split: str, n: int = N) -> tuple[np.ndarray, np.ndarray]:
    """Normalised features of the shipped digits by open_clip's own loop, and their labels."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{path}")
    model.eval()
    (task,) = open_tasks([f"digits:{split}"])
    samples = [task.dataset.read(i) for i in task.dataset.some(n)]
    images = torch.stack([preprocess(PIL.Image.open(io.BytesIO(s.data)).convert("RGB")) for s in samples])
    with torch.inference_mode():
        return normalize(model.encode_image(images), dim=-1).numpy(), np.array([s.label for s in samples])


def chosen_c(notes: tuple[str, ...]) -> float:
    (note,) = [note for note in notes if "C = " in note]
    return float(note.partition("C = ")[2].partition(",")[0])


def test_a_probe_is_scikit_learns_on_open_clips_features(digit_models: list[Path], tmp_path: Path) -> None:
    options = EvaluationOptions(cache=tmp_path / "cache", limit=N)
    result = evaluate(digit_models, ["digits"], options=options, probe=Probe())
    for path, score in zip(digit_models, result.scores, strict=True):
        (train, labels), (test, truth) = features_of(path, "train"), features_of(path, "test")
        (note,) = [note for note in result.notes if note.startswith(f"{path}, ")]
        model = LogisticRegression(C=chosen_c((note,)), max_iter=5000).fit(train, labels)
        assert score.value == pytest.approx(model.score(test, truth), abs=2.5 / N)  # C is noted with three digits
        assert score.task == "digits (linear probe)" and score.n == N and score.low < score.value < score.high
        assert score.value > LogisticRegression(C=1e-6).fit(train, labels).score(test, truth)
    assert result.scores[1].value > 0.5 and result.pairs[0].task == "digits (linear probe)"
    again = evaluate(digit_models, ["digits"], options=options, probe=Probe())
    assert again.scores == result.scores and again.pairs == result.pairs


def test_a_probe_agrees_with_clip_benchmarks(digit_models: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """It trains by gradient what is here fitted to the optimum, and always on CUDA: told that this is the CPU."""
    from clip_benchmark.metrics import linear_probe

    (train, labels), (test, truth) = features_of(digit_models[1], "train", 400), features_of(digit_models[1], "test")
    hits, _ = fit_probe(train, labels, test, truth, 10, Probe())
    monkeypatch.setattr(torch.nn.Module, "cuda", lambda self: self)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    pairs = linear_probe.FeatureDataset(torch.from_numpy(train), torch.from_numpy(labels))
    loader = torch.utils.data.DataLoader(pairs, batch_size=100, shuffle=True)
    layer = linear_probe.train(loader, train.shape[1], 10, 0.0, 1.0, 150, False, "cpu", 0)
    theirs = (layer(torch.from_numpy(test)).argmax(dim=1).numpy() == truth).mean()
    assert hits.top1.mean() == pytest.approx(theirs, abs=0.05)


def test_a_few_shots_are_of_every_class_and_c_is_chosen_among_them() -> None:
    labels = np.repeat([0, 1, 2], [50, 9, 20])
    rows = training_rows(labels, Probe(4), "x")
    assert np.bincount(labels[rows]).tolist() == [4, 4, 4] and (np.diff(rows) > 0).all()
    assert (rows == training_rows(labels, Probe(4), "x")).all()
    assert (rows != training_rows(labels, Probe(4, seed=1), "x")).any()


def blobs(n: int, seed: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    return (np.eye(classes, 8)[labels] + 0.4 * generator.normal(size=(n, 8))).astype(np.float32), labels


@pytest.mark.parametrize("shots", [1, 2, 8])
def test_a_probe_of_a_few_shots_learns(shots: int) -> None:
    (train, labels), (test, truth) = blobs(3 * shots, 0), blobs(300, 1)
    hits, c = fit_probe(train, labels, test, truth, 3, Probe(shots))
    assert hits.top1.mean() > 0.5 and (c == 1.0 or shots > 1)


def test_c_is_chosen_without_the_images_that_are_scored() -> None:
    """Scored images of other labels change the score, and not what is fitted."""
    (train, labels), (test, truth) = blobs(90, 0), blobs(60, 1)
    one, c = fit_probe(train, labels, test, truth, 3, Probe())
    other, d = fit_probe(train, labels, test, (truth + 1) % 3, 3, Probe())
    assert c == d and (one.predicted == other.predicted).all()  # type: ignore[union-attr]


def test_two_classes_and_classes_that_no_training_image_is_of() -> None:
    (train, labels), (test, truth) = blobs(40, 0, 2), blobs(40, 1, 2)
    hits, _ = fit_probe(train, labels * 3, test, truth * 3, 5, Probe())
    assert set(hits.predicted.tolist()) == {0, 3} and hits.top1.mean() > 0.8  # type: ignore[union-attr]
    expected = LogisticRegression(max_iter=1000).fit(train, labels).predict(test)
    assert ((hits.predicted == 3) == expected).mean() > 0.9  # type: ignore[union-attr]


def test_images_of_both_splits_are_not_fitted_to(digit_models: list[Path], tmp_path: Path) -> None:
    samples = [{"png": encoded(picture(n), "png"), "cls": b"%d" % (n % 2)} for n in range(24)]
    write_lists(tmp_path / "data", ["a", "b"], ["{c}"])
    write_shards(tmp_path / "data", "train", samples[:16])
    write_shards(tmp_path / "data", "test", samples[10:])
    result = evaluate(digit_models[:1], [str(tmp_path / "data")], options=EvaluationOptions(), probe=Probe())
    assert any("fitted to 10 images; 6 that are scored too were left out" in note for note in result.notes)


def test_models_of_one_image_tower_have_one_probe(digit_models: list[Path], tmp_path: Path) -> None:
    other_text = altered(digit_models[1], tmp_path / "text", "transformer")
    options = EvaluationOptions(cache=tmp_path / "cache", limit=60)
    one, other = evaluate([digit_models[1], other_text], ["digits"], options=options, probe=Probe(2)).scores
    assert (one.value, one.task) == (other.value, "digits (2-shot probe)") and one.fingerprint != other.fingerprint


def test_features_are_those_of_the_live_model(digit_models: list[Path]) -> None:
    from soupkit.checkpoint import open_checkpoint

    with (
        open_checkpoint(digit_models[1]) as checkpoint,
        Evaluator(checkpoint.config or {}, open_tasks(["digits"]), EvaluationOptions(limit=40)) as evaluator,
    ):
        evaluator.load(checkpoint)
        found = evaluator.features(0, evaluator.pixels[0].rows)
    assert np.abs(found.numpy() - features_of(digit_models[1], "test", 40)[0]).max() < 1e-5


@pytest.mark.parametrize(
    ("labels", "shots", "says"),
    [([0, 0, 0], None, "images of 1 class"), ([0, 0, 1], 2, "has 1 images of class 1, and 2 shots are asked for")],
)
def test_too_few_classes_or_images_are_named(labels: list[int], shots: int | None, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        training_rows(np.array(labels), Probe(shots), "x:train")
    assert caught.value.where == "x:train" and caught.value.hint


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5", "²", "9" * 99])
def test_what_is_no_probe_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no probe"):
        parse_probe(text)


def test_a_task_without_a_training_split_and_a_model_with_a_head_are_refused(
    digit_models: list[Path], colours: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="has no split 'train'"):
        evaluate(digit_models[:1], [str(colours)], options=EvaluationOptions(), probe=Probe())
    from tests.evaluation.test_heads import of_timm

    of_timm(tmp_path / "model")
    with pytest.raises(ArchitectureError, match="a probe is of features"):
        evaluate([tmp_path / "model"], ["digits"], options=EvaluationOptions(), probe=Probe())


def test_the_command_writes_what_probes_score(digit_models: list[Path], tmp_path: Path, inline: Run) -> None:
    arguments = ["evaluate", digit_models[1], "--task", "digits", "--probe", "4", "--limit", "80", "--json"]
    done = inline(*arguments, "--cache", tmp_path / "cache")
    (score,) = json.loads(done.stdout)["scores"]
    assert score["task"] == "digits (4-shot probe)" and score["value"] > 0.2
