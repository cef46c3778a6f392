"""Fine-tuning with a classification head: its loss and gradient, what its head begins with, and what comes out."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import log_softmax, normalize

from soupkit.checkpoint import open_checkpoint
from soupkit.checkpoint.expected import expected_shapes
from soupkit.errors import ArchitectureError, SoupkitError
from soupkit.evaluation import EvaluationOptions, Evaluator, open_tasks
from soupkit.evaluation.heads import HeadOptions, head_config
from soupkit.evaluation.probe import Probe
from soupkit.evaluation.run_evaluation import evaluate
from soupkit.evaluation.transform import decode
from soupkit.merging import merge
from soupkit.progress import Silent
from soupkit.training import train
from soupkit.training.classification_step import classification_step
from soupkit.training.classifier import Classifier
from tests.conftest import TINY_MODEL
from tests.training.contrastive import CLASSES, WIDTH, batch, gradients, small_classifier, tiny_model
from tests.training.runs import IN_PROCESS, WEIGHTS, Interrupting, clip_of_digits, settings


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of digits: above chance, and far from perfect."""
    return clip_of_digits(tmp_path_factory.mktemp("classification") / "clip", 3200)


def classifier(clip: Path, **fields: Any) -> dict[str, Any]:
    usual = {"model": None, "init": str(clip), "loss": "cross_entropy", "samples": 96, "warmup": 0, "ema": None}
    return settings(**{**usual, **fields})


@pytest.fixture(scope="module")
def zero_shot(clip: Path) -> Path:
    """The zero-shot classifier of the CLIP, before any step."""
    train(classifier(clip, stop_at=0), clip.with_name("zero-shot"), options=IN_PROCESS)
    return clip.with_name("zero-shot")


@pytest.fixture(scope="module")
def tuned(zero_shot: Path) -> Path:
    """A classifier that was trained from there."""
    place = zero_shot.with_name("tuned")
    train(classifier(zero_shot, lr=3e-3, samples=640), place, options=IN_PROCESS)
    return place


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> EvaluationOptions:
    return EvaluationOptions(cache=tmp_path_factory.mktemp("cache"), device="cpu")


class Listening(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("micro_batch", [1, 5, 12])
def test_the_step_has_the_loss_and_gradient_of_the_whole_batch(micro_batch: int, smoothing: float) -> None:
    model, (images, _) = small_classifier(0.5), batch(12, torch.float64)
    labels = torch.arange(12) % CLASSES
    torch.manual_seed(7)
    logits = []
    for part in images.split(micro_batch):  # patch dropout is drawn for each in its turn
        features = model.model.visual(part)  # type: ignore[operator]
        features = features / features.norm(dim=-1, keepdim=True)
        logits.append(features @ model.classification_head.weight.T + model.classification_head.bias)
    probabilities = log_softmax(torch.cat(logits), dim=-1)
    wanted = torch.full((12, CLASSES), smoothing / CLASSES, dtype=torch.float64)
    wanted[torch.arange(12), labels] += 1 - smoothing
    expected = -(wanted * probabilities).sum(dim=1).mean()
    expected.backward()
    whole = gradients(model)

    torch.manual_seed(7)
    loss = classification_step(model, images, labels, micro_batch=micro_batch, label_smoothing=smoothing)

    torch.testing.assert_close(loss, expected.detach().float(), rtol=1e-6, atol=0)
    found = gradients(model)
    assert found.keys() == whole.keys() == {name for name, _ in model.named_parameters()}
    for name, gradient in whole.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12)


def test_bfloat16_computes_the_tower_and_not_the_head() -> None:
    model, (images, _) = small_classifier().float(), batch(12)
    labels = torch.arange(12) % CLASSES
    exact = classification_step(model, images, labels, micro_batch=12)
    low = classification_step(model, images, labels, micro_batch=12, precision="bf16")
    assert 0 < abs(low - exact) < 0.02 * exact
    with torch.autocast("cpu", torch.bfloat16):
        assert model(images).dtype == torch.float32


def test_a_run_begins_by_scoring_what_its_clip_scores_zero_shot(
    clip: Path, zero_shot: Path, options: EvaluationOptions
) -> None:
    predictions = []
    for ref in (clip, zero_shot):
        with open_checkpoint(ref) as checkpoint:
            config = head_config(checkpoint, HeadOptions()) or checkpoint.config
            assert config is not None
            with Evaluator(config, open_tasks(["digits"]), options) as evaluator:
                evaluator.load(checkpoint)
                (hits,) = evaluator.outcomes()
        predictions.append(hits.predicted)  # type: ignore[union-attr]
    np.testing.assert_array_equal(*predictions)
    assert len(np.unique(predictions[0])) > 4
    head = load_file(zero_shot / WEIGHTS)
    scale = load_file(clip / WEIGHTS)["logit_scale"].exp()
    torch.testing.assert_close(head["classification_head.weight"].norm(dim=1), scale.expand(10))
    assert not head["classification_head.bias"].any()


def test_the_end_is_a_directory_whose_scores_are_those_of_its_tensors(tuned: Path, options: EvaluationOptions) -> None:
    config = json.loads((tuned / "open_clip_config.json").read_text())
    task = open_tasks(["digits"])[0]
    assert config["class_names"] == list(task.classnames)
    state = load_file(tuned / WEIGHTS)
    assert all(name.startswith(("model.visual.", "classification_head.")) for name in state)
    model = open_clip.CLIP(**TINY_MODEL).eval()
    visual = {k.removeprefix("model.visual."): v for k, v in state.items() if k.startswith("model.")}
    model.visual.load_state_dict(visual)
    own = open_clip.transform.PreprocessCfg(**{**config["preprocess_cfg"], "size": 16})
    transform = open_clip.transform.image_transform_v2(own, is_train=False)
    samples = [task.dataset.read(i) for i in range(len(task.dataset))]
    with torch.inference_mode():
        images = torch.stack([transform(decode(sample.data)) for sample in samples])
        features = normalize(model.encode_image(images), dim=-1)
        logits = features @ state["classification_head.weight"].T + state["classification_head.bias"]
    right = logits.argmax(dim=1).numpy() == [sample.label for sample in samples]
    result = evaluate([tuned], ["digits"], options=options)
    assert result.scores[0].value == right.mean() > 0.3
    assert any("outputs are classes by name" in note for note in result.notes)


def test_the_loss_falls_and_the_same_call_goes_on_to_the_same_bytes(
    zero_shot: Path, tuned: Path, tmp_path: Path
) -> None:
    losses = [json.loads(line)["loss"] for line in (tuned / "metrics.jsonl").read_text().splitlines()]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.2
    run = classifier(zero_shot, lr=3e-3, samples=640, evaluate={"tasks": ["digits:val"], "every": 320, "limit": 40})
    with pytest.raises(KeyboardInterrupt):
        train(run, tmp_path / "run", options=IN_PROCESS, progress=Interrupting(21))
    train(run, tmp_path / "run", options=IN_PROCESS)
    assert (tmp_path / "run" / WEIGHTS).read_bytes() == (tuned / WEIGHTS).read_bytes()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["samples"] for line in lines if "scores" in line] == [320, 640]


def test_a_head_may_begin_as_the_linear_probe_of_the_training_images(
    clip: Path, options: EvaluationOptions, tmp_path: Path
) -> None:
    heard = Listening()
    train(classifier(clip, head="probe", stop_at=0), tmp_path / "probe", options=IN_PROCESS, progress=heard)
    assert any("begins as a linear probe" in note and "1,000 images" in note for note in heard.notes)
    (probed,) = evaluate([clip], ["digits"], options=options, probe=Probe()).scores
    (headed,) = evaluate([tmp_path / "probe"], ["digits"], options=options).scores
    assert headed.value == probed.value
    part = {"shards": "digits:train", "share": 0.1}
    train(classifier(clip, head="probe", stop_at=0, data=part), tmp_path / "part", options=IN_PROCESS, progress=heard)
    dataset = open_tasks(["digits:train"])[0].dataset
    counts = np.bincount([dataset.read(i).label for i in range(len(dataset))])
    assert f"fitted to {np.round(0.1 * counts).sum():.0f} images" in heard.notes[-1]


def test_the_text_tower_is_kept_where_it_is_asked_for_and_makes_another_head(clip: Path, tmp_path: Path) -> None:
    run = classifier(clip, keep_text=True, samples=48)
    train(run, tmp_path / "both", options=IN_PROCESS)
    before, after = load_file(clip / WEIGHTS), load_file(tmp_path / "both" / WEIGHTS)
    assert set(after) == {f"model.{n}" for n in before} | {f"classification_head.{n}" for n in ("weight", "bias")}
    for name, tensor in before.items():
        moved = not torch.equal(tensor, after[f"model.{name}"])
        assert moved == name.startswith("visual."), name
    train(classifier(tmp_path / "both", head="zero_shot", stop_at=0), tmp_path / "anew", options=IN_PROCESS)
    anew = load_file(tmp_path / "anew" / WEIGHTS)
    assert torch.equal(anew["model.visual.conv1.weight"], after["model.visual.conv1.weight"])
    original = load_file(tmp_path / "both" / WEIGHTS)["classification_head.weight"]
    assert not torch.equal(anew["classification_head.weight"], original)


def test_the_image_tower_may_stay_as_it_is_and_the_head_learn(zero_shot: Path, tmp_path: Path) -> None:
    train(classifier(zero_shot, lock_image=True, layer_decay=0.5), tmp_path / "head", options=IN_PROCESS)
    before, after = load_file(zero_shot / WEIGHTS), load_file(tmp_path / "head" / WEIGHTS)
    assert {n for n in before if not torch.equal(before[n], after[n])} == {
        "classification_head.weight", "classification_head.bias"
    }  # fmt: skip


def test_soups_of_classifiers_are_merged_and_evaluated(
    zero_shot: Path, tuned: Path, options: EvaluationOptions, tmp_path: Path
) -> None:
    merge([zero_shot, tuned], tmp_path / "soup")
    a, b, soup = (load_file(place / WEIGHTS) for place in (zero_shot, tuned, tmp_path / "soup"))
    for name, tensor in soup.items():
        expected = (a[name].double() + b[name].double()) / 2
        torch.testing.assert_close(tensor, expected.float(), rtol=2e-7, atol=1e-30)
    config = json.loads((tmp_path / "soup" / "open_clip_config.json").read_text())
    assert config["class_names"] == list(open_tasks(["digits"])[0].classnames)
    (score,) = evaluate([tmp_path / "soup"], ["digits"], options=options).scores
    assert score.value > 0.1

    shutil.copytree(tuned, tmp_path / "other")
    config["class_names"] = config["class_names"][::-1]
    (tmp_path / "other" / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(SoupkitError, match=r"config differs .*class_names\.0"):
        merge([zero_shot, tmp_path / "other"], tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


def test_a_classifier_of_a_published_architecture_fits_its_name(tmp_path: Path) -> None:
    """A head does not make open_clip's ViT-S-32-alt another model, though its tensors are other ones."""
    config = {"model_cfg": open_clip.get_model_config("ViT-S-32-alt"), "preprocess_cfg": {}}
    shapes = {f"model.{n}": s for n, s in (expected_shapes(config) or {}).items() if n.startswith("visual.")}
    for i, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        state = {n: torch.full(s, i, dtype=torch.bfloat16) for n, s in shapes.items()}
        state["classification_head.weight"] = torch.ones(2, 256, dtype=torch.bfloat16)
        save_file(state, tmp_path / name / WEIGHTS)
        (tmp_path / name / "open_clip_config.json").write_text(json.dumps(config))
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "soup")
    assert json.loads((tmp_path / "soup" / "open_clip_config.json").read_text()) == config
    save_file({**state, "model.visual.proj": torch.ones(3)}, tmp_path / "b" / WEIGHTS)
    with pytest.raises(ArchitectureError, match=r"visual\.proj"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "other")


def folder(place: Path, names: list[str], images: int = 2) -> Path:
    for i, name in enumerate(names):
        (place / "train" / name).mkdir(parents=True)
        for j in range(images):
            Image.new("RGB", (16, 16), (40 * i, 90 * j, 9)).save(place / "train" / name / f"{j}.png")
    return place


def test_folders_name_their_classes_and_go_to_the_outputs_of_these_names(clip: Path, tmp_path: Path) -> None:
    first = folder(tmp_path / "first", ["cat", "dog", "emu"])
    second = folder(tmp_path / "second", ["ant", "dog"])
    sources = [{"shards": str(first)}, {"shards": str(second)}]
    with pytest.raises(SoupkitError, match="head of 3 classes, and none of them is 'ant'"):
        train(classifier(clip, data=sources), tmp_path / "wrong", options=IN_PROCESS)
    shutil.rmtree(second / "train" / "ant")
    train(classifier(clip, data=sources, batch_size=8, samples=16), tmp_path / "animals", options=IN_PROCESS)
    config = json.loads((tmp_path / "animals" / "open_clip_config.json").read_text())
    assert config["class_names"] == ["cat", "dog", "emu"]

    from soupkit.training.data.batches import TrainingData
    from soupkit.training.entry import TrainEntry

    data = TrainingData(TrainEntry.model_validate(classifier(clip, data=sources)), config, None)
    of_second = [data[p][1] for p in range(16) if data._mixture(p)[0] == 1]
    assert of_second and all(output == 1 for output in of_second), "a dog is the second output, wherever it lies"


Change = Callable[[dict[str, Any], Path], dict[str, Any]]
BAD: dict[str, tuple[Change, str]] = {
    "no shards": (lambda run, w: {**run, "data": {"shards": "a/{0..3}.tar"}}, "a/0.tar: is missing"),
    "nothing there": (lambda run, w: {**run, "data": {"shards": "nowhere:train"}}, "nothing lies at that path"),
    "numbers for names": (lambda run, w: {**run, "data": {"shards": str(folder(w / "n", ["0", "1"]))}}, "by no names"),
    "one class": (lambda run, w: {**run, "data": {"shards": str(folder(w / "o", ["cat"]))}}, "has 1 class"),
    "no image of a class": (
        lambda run, w: {**run, "head": "probe", "data": {"shards": str(lacking(w / "l"))}}, "have no image of 'emu'",
    ),
    "another head": (
        lambda run, w: {**run, "init": str(w / "tuned"), "data": {"shards": str(folder(w / "a", ["cat", "dog"]))}},
        "head of 10 classes, and none of them is 'cat'",
    ),
    "scored on other classes": (
        lambda run, w: {**run, "evaluate": {"tasks": [f"{folder(w / 'v', ['cat', 'dog'])}:train"], "every": 16}},
        "none of them is 'cat'",
    ),
    "no text tower": (lambda run, w: {**run, "init": str(w / "tuned"), "head": "zero_shot"}, "has no text tower"),
    "text to keep": (lambda run, w: {**run, "init": str(w / "tuned"), "keep_text": True}, "has no text tower"),
    "a clip from a head": (
        lambda run, w: {**run, "init": str(w / "tuned"), "loss": "clip"}, "is a classifier with a head",
    ),
    "from nothing": (lambda run, w: {**run, "init": None, "model": TINY_MODEL}, "it needs init"),
    "a head without the loss": (lambda run, w: {**run, "loss": "clip", "head": "probe"}, "belongs to loss"),
}  # fmt: skip


def lacking(place: Path) -> Path:
    folder(place, ["cat", "dog"])
    (place / "classnames.txt").write_text("cat\ndog\nemu\n")
    return place


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_a_classifier_is_said_before_any_work(
    case: str, clip: Path, tuned: Path, tmp_path: Path
) -> None:
    change, said = BAD[case]
    (tmp_path / "tuned").symlink_to(tuned)
    run = change(classifier(clip), tmp_path)
    with pytest.raises(SoupkitError, match=said) as caught:
        train(run, tmp_path / "run", options=IN_PROCESS)
    assert caught.value.hint and not (tmp_path / "run").exists()
    if case != "no image of a class":  # which only reading the images tells
        assert not (tmp_path / "run.partial").exists()


def test_a_label_without_a_name_ends_the_run(clip: Path, tmp_path: Path) -> None:
    place = folder(tmp_path, ["cat", "dog"])
    (place / "train.csv").write_text(
        "filepath,label\n" + "".join(f"train/cat/{i % 2}.png,{2 * (i == 5)}\n" for i in range(8))
    )
    (place / "classnames.txt").write_text("cat\ndog\n")
    with pytest.raises(SoupkitError, match="has the label 2, and 2 classes have names"):
        train(classifier(clip, data={"csv": str(place / "train.csv")}), tmp_path / "run", options=IN_PROCESS)


def test_a_head_without_names_goes_on_by_position_and_that_is_said(tuned: Path, tmp_path: Path) -> None:
    """A published model of model-soups: bare weights, and some of the text tower."""
    state = load_file(tuned / WEIGHTS)
    state["model.logit_scale"] = torch.tensor(2.0)
    torch.save(state, tmp_path / "model.pt")
    heard = Listening()
    config = json.loads((tuned / "open_clip_config.json").read_text())
    model = {k: config[k] for k in ("model_cfg", "preprocess_cfg")}
    run = classifier(tmp_path / "model.pt", model=model, stop_at=0)
    train(run, tmp_path / "run", options=IN_PROCESS, progress=heard)
    assert any("by position, its 10 outputs" in note for note in heard.notes)
    ended = load_file(tmp_path / "run" / WEIGHTS)
    assert set(ended) == set(state) - {"model.logit_scale"}
    assert all(torch.equal(ended[name], state[name]) for name in ended)
    (tmp_path / "two").mkdir()
    data = {"shards": str(folder(tmp_path / "two", ["cat", "dog"]))}
    with pytest.raises(SoupkitError, match="head of 10 classes without names, and the data have 2"):
        train({**run, "data": data}, tmp_path / "other", options=IN_PROCESS)


def test_modules_have_the_names_that_the_directory_has() -> None:
    whole = Classifier(tiny_model(), WIDTH, CLASSES, keep_text=True)
    part = Classifier(tiny_model(), WIDTH, CLASSES, keep_text=False)
    assert set(part.state_dict()) < set(whole.state_dict())
    assert isinstance(part.classification_head, nn.Linear)
