"""The evaluator gives what open_clip and clip-benchmark give, image by image."""

import io
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from clip_benchmark.datasets.builder import build_dataset
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score
from torch.nn.functional import normalize

from soupkit.checkpoint import open_checkpoint
from soupkit.evaluation import Evaluator, open_tasks
from soupkit.evaluation.image_pass import image_features
from soupkit.evaluation.outcomes import Hits
from soupkit.evaluation.tasks import DIGITS
from soupkit.evaluation.transform import decode
from tests.evaluation.conftest import encoded, picture, write_lists, write_shards
from tests.evaluation.zoo import MODELS

KINDS = ["digits", *MODELS]


def path_of(kind: str, digit_models: list[Path], zoo: dict[str, Path]) -> Path:
    return digit_models[1] if kind == "digits" else zoo[kind]


def undecided(logits: torch.Tensor) -> np.ndarray:
    """Images whose two best cosines are too close for a comparison of two correct programs."""
    best = logits.topk(2).values
    return (best[:, 0] - best[:, 1] < 1e-5).numpy()


def assert_same_hits(hits: Hits, cosines: torch.Tensor, labels: torch.Tensor) -> None:
    assert len(cosines.argmax(dim=1).unique()) > 1, "a model that always says the same would agree too easily"
    close = undecided(cosines)
    assert close.sum() <= 0.001 * len(close)
    expected = (cosines.argmax(dim=1) == labels).numpy()
    np.testing.assert_array_equal(hits.top1[~close], expected[~close])


@pytest.mark.parametrize("kind", KINDS)
def test_hits_are_those_of_open_clips_own_loop(kind: str, digit_models: list[Path], zoo: dict[str, Path]) -> None:
    path = path_of(kind, digit_models, zoo)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{path}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{path}")
    model.eval()
    (task,) = open_tasks(["digits"])
    samples = [task.dataset.read(i) for i in range(len(task.dataset))]
    images = torch.stack([preprocess(decode(s.data)) for s in samples])
    templates = [lambda c, t=t: t.replace("{c}", c) for t in task.templates]
    with torch.inference_mode():
        classifier = open_clip.build_zero_shot_classifier(model, tokenizer, task.classnames, templates)
        features = torch.cat([normalize(model.encode_image(images[i : i + 100]), dim=-1) for i in range(0, 497, 100)])
    with (
        open_checkpoint(path) as checkpoint,
        Evaluator(checkpoint.config or {}, [task], tokenizer_files=checkpoint.tokenizer_files) as evaluator,
    ):
        evaluator.load(checkpoint)
        ours = evaluator.text_side(0)
        (hits,) = evaluator.outcomes()
        pixels = evaluator.pixels[0]
        parts = [f for _, f in image_features(evaluator.model, pixels, pixels.rows, evaluator._how)]
    assert (ours - classifier).abs().max() < 1e-5
    assert (torch.cat(parts) - features).abs().max() < 1e-5
    assert isinstance(hits, Hits)
    assert_same_hits(hits, features @ classifier, torch.tensor([s.label for s in samples]))
    best = (features @ classifier).topk(5).indices
    within = (best == torch.tensor([s.label for s in samples])[:, None]).any(dim=1).numpy()
    assert hits.top5 is not None and (hits.top5 != within).mean() < 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_hits_are_those_of_clip_benchmark(kind: str, digit_models: list[Path], zoo: dict[str, Path]) -> None:
    path = path_of(kind, digit_models, zoo)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{path}")
    model.eval()
    dataset = build_dataset("wds/digits", root=str(DIGITS), transform=preprocess, split="test")
    loader = torch.utils.data.DataLoader(dataset.batched(64), batch_size=None, num_workers=0)
    classifier = zeroshot_classification.zero_shot_classifier(
        model, open_clip.get_tokenizer(f"local-dir:{path}"), dataset.classes, dataset.templates, "cpu", amp=False
    )
    logits, labels = zeroshot_classification.run_classification(model, classifier, loader, "cpu", amp=False)
    (task,) = open_tasks([str(DIGITS)])
    with (
        open_checkpoint(path) as checkpoint,
        Evaluator(checkpoint.config or {}, [task], tokenizer_files=checkpoint.tokenizer_files) as evaluator,
    ):
        evaluator.load(checkpoint)
        (hits,) = evaluator.outcomes()
        (score,) = evaluator.score()
    assert isinstance(hits, Hits)
    assert_same_hits(hits, logits / 100, labels)
    if kind == "digits":  # trained: nothing is close, so every figure is the same
        acc1, acc5 = (top_k_accuracy_score(labels, logits, k=k) for k in (1, 5))
        recall = balanced_accuracy_score(labels, logits.argmax(dim=1))
        assert acc1 > 0.3
        expected = {"acc1": acc1, "acc5": acc5, "mean_per_class_recall": recall}
        assert score.metrics == pytest.approx(expected, abs=1e-12)


def test_multilabel_precision_is_that_of_clip_benchmark(digit_models: list[Path], tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    samples = []
    for n in range(40):
        flags = (generator.random(4) < 0.4).astype(np.int64)
        buffer = io.BytesIO()
        np.save(buffer, flags)
        samples.append({"png": encoded(picture(n), "png"), "npy": buffer.getvalue()})
    folder = write_shards(tmp_path / "flags", "test", samples)
    write_lists(folder, ["one", "two", "three", "four"], ["a {c}", "the digit {c}"], "multilabel")
    path = digit_models[0]
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{path}")
    model.eval()
    dataset = build_dataset("wds/flags", root=str(folder), transform=preprocess, split="test")
    loader = torch.utils.data.DataLoader(dataset.batched(16), batch_size=None)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{path}")
    theirs = zeroshot_classification.evaluate(
        model, loader, tokenizer, dataset.classes, dataset.templates, "cpu", amp=False
    )
    with (
        open_checkpoint(path) as checkpoint,
        Evaluator(checkpoint.config or {}, open_tasks([str(folder)])) as evaluator,
    ):
        evaluator.load(checkpoint)
        (score,) = evaluator.score()
    assert score.value == pytest.approx(theirs["mean_average_precision"], abs=1e-6)
    assert score.metric == "mean_average_precision" and score.low < score.value < score.high


def test_retrieval_recall_is_that_of_clip_benchmark(digit_models: list[Path], tmp_path: Path) -> None:
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    samples = []
    for n in range(60):
        one, other = words[n % 10], words[n // 10]
        captions = [f"the digits {other} {one}", f"a photo of {one} and {other}"][: 1 + n % 2]
        samples.append({"png": encoded(picture(n), "png"), "txt": "\n".join(captions).encode()})
    folder = write_shards(tmp_path / "pairs", "test", samples, shards=2)
    (folder / "dataset_type.txt").write_text("retrieval\n")
    path = digit_models[0]
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{path}")
    model.eval()
    dataset = build_dataset(
        "wds/pairs", root=str(folder), transform=preprocess, split="test", task="zeroshot_retrieval"
    )

    def batches() -> object:
        found = list(dataset)
        for i in range(0, len(found), 20):
            part = found[i : i + 20]
            yield torch.stack([image for image, _ in part]), [texts for _, texts in part]

    tokenizer = open_clip.get_tokenizer(f"local-dir:{path}")
    theirs = zeroshot_retrieval.evaluate(model, batches(), tokenizer, "cpu", amp=False, recall_k_list=[1, 5, 10])
    with (
        open_checkpoint(path) as checkpoint,
        Evaluator(checkpoint.config or {}, open_tasks([str(folder)])) as evaluator,
    ):
        evaluator.load(checkpoint)
        (score,) = evaluator.score()
    for name, value in theirs.items():
        assert score.metrics[name] == pytest.approx(value, abs=1e-6), name
    assert score.n == 60 and score.low <= score.value <= score.high
