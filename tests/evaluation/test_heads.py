"""Classifiers with a head, against the libraries that made them, image by image."""

import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import PIL.Image
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from sklearn.metrics import balanced_accuracy_score
from timm.models import save_for_hf
from torch import nn
from torch.nn.functional import normalize

from soupkit.checkpoint import open_checkpoint
from soupkit.errors import ArchitectureError, DataError, SoupkitError
from soupkit.evaluation import EvaluationOptions, Evaluator, evaluate, open_tasks
from soupkit.evaluation.head_labels import map_labels
from soupkit.evaluation.heads import HeadOptions, head_config
from soupkit.evaluation.outcomes import Hits
from soupkit.evaluation.task import Task
from tests.conftest import PREPROCESS
from tests.evaluation.zoo import TEXT, VIT

Run = Callable[..., subprocess.CompletedProcess[str]]
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
Classifier = Callable[[PIL.Image.Image], torch.Tensor]


def digits(n: int = 60) -> tuple[list[PIL.Image.Image], np.ndarray]:
    (task,) = open_tasks(["digits"])
    chosen = np.linspace(0, len(task.dataset) - 1, n).round().astype(int)
    samples = [task.dataset.read(int(i)) for i in chosen]
    return [PIL.Image.open(io.BytesIO(s.data)).convert("RGB") for s in samples], np.array([s.label for s in samples])


def telling_apart(model: nn.Module, last: nn.Linear, classify: Classifier, spread: float = 0.15) -> Classifier:
    """Give a model random weights, and its last layer a bias with which images fall into several classes."""
    generator = torch.Generator().manual_seed(0)
    model.eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point() and "running" not in name:
                value.add_(spread * torch.randn(value.shape, generator=generator))
        logits = torch.stack([classify(image) for image in digits(8)[0]])
        last.bias -= logits.mean(dim=0)
    return classify


def of_timm(directory: Path) -> Classifier:
    """A ViT with descriptions of its labels, and a crop that timm alone knows (crop_pct)."""
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10, img_size=32, depth=2, embed_dim=48, num_heads=3)
    transform = timm.data.create_transform(**timm.data.resolve_data_config({"input_size": (3, 32, 32)}, model=model))
    telling_apart(model, model.head, lambda image: model(transform(image)[None])[0])
    names = [f"d{i}" for i in range(10)]
    config = {"label_names": names, "label_descriptions": dict(zip(names, WORDS, strict=True))}
    save_for_hf(model, directory, model_config=config, safe_serialization=True)
    opened = timm.create_model(f"local-dir:{directory}", pretrained=True).eval()
    own = timm.data.create_transform(**timm.data.resolve_model_data_config(opened))
    return lambda image: opened(own(image)[None])[0]


def of_transformers(directory: Path) -> Classifier:
    """A ViT of transformers, with labels in another order than the task's."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    labels = {i: WORDS[(i + 3) % 10] for i in range(10)}
    config = ViTConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96, image_size=32, patch_size=8,
        num_labels=10, id2label=labels, label2id={w: i for i, w in labels.items()},
    )  # fmt: skip
    model = ViTForImageClassification(config)
    processor = ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.4, 0.5, 0.6], resample=3)
    telling_apart(model, model.classifier, lambda image: model(**processor(image, return_tensors="pt")).logits[0])
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    order = [(i - 3) % 10 for i in range(10)]
    return lambda image: model(**processor(image, return_tensors="pt")).logits[0][order]


def of_torchvision(directory: Path) -> Classifier:
    """Bare weights of a ResNet, with the transform that torchvision's own weights of ImageNet have."""
    model = torchvision.models.resnet18(num_classes=10)
    own = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    steps = torchvision.transforms.Compose([
        torchvision.transforms.Resize(256), torchvision.transforms.CenterCrop(224), torchvision.transforms.ToTensor(),
        torchvision.transforms.Normalize(own.mean, own.std),
    ])  # fmt: skip
    classify = telling_apart(model, model.fc, lambda image: model(steps(image)[None])[0], spread=0.0)
    directory.mkdir()
    torch.save(model.state_dict(), directory / "model.pt")
    return classify


def of_model_soups(directory: Path) -> Classifier:
    """The form of model-soups: a CLIP without its text transformer under `model.`, and a linear head."""
    clip, head = open_clip.CLIP(32, dict(VIT), dict(TEXT)), nn.Linear(32, 10)
    preprocess = {**PREPROCESS, "size": 16}
    transform = open_clip.transform.image_transform_v2(open_clip.transform.PreprocessCfg(**preprocess), is_train=False)
    classify = telling_apart(
        clip, head, lambda image: head(normalize(clip.encode_image(transform(image)[None]), dim=-1))[0]
    )
    state = {f"model.{k}": v for k, v in clip.state_dict().items() if not k.startswith(("transformer.", "attn_mask"))}
    state |= {f"classification_head.{k}": v for k, v in head.state_dict().items()}
    directory.mkdir()
    save_file({k: v.contiguous() for k, v in state.items()}, directory / "model.safetensors")
    config = {"model_cfg": {"embed_dim": 32, "vision_cfg": VIT, "text_cfg": TEXT}, "preprocess_cfg": preprocess}
    (directory / "open_clip_config.json").write_text(json.dumps(config))
    return classify


MAKERS: dict[str, tuple[Callable[[Path], Classifier], dict[str, Any], str]] = {
    "timm": (of_timm, {}, "by name"),
    "transformers": (of_transformers, {}, "by name"),
    "torchvision": (of_torchvision, {"builder": "torchvision.models:resnet18(num_classes=10)"}, "by position, 10"),
    "model-soups": (of_model_soups, {}, "by position, 10"),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_a_classifier_is_scored_as_its_own_library_runs_it(kind: str, tmp_path: Path) -> None:
    make, said, how = MAKERS[kind]
    torch.manual_seed(0)  # weights at random may tell hardly anything apart
    classify = make(tmp_path / "model")
    n = 12 if kind == "torchvision" else 60  # at 224 pixels
    images, labels = digits(n)
    with torch.inference_mode():
        logits = torch.stack([classify(image) for image in images])
    assert len(logits.argmax(dim=1).unique()) > 1, "a model that always says the same would agree too easily"
    ref = tmp_path / "model" / "model.pt" if kind == "torchvision" else tmp_path / "model"
    options = EvaluationOptions(cache=tmp_path / "cache", limit=n)
    result = evaluate([ref], ["digits"], options=options, **said)
    with open_checkpoint(ref) as checkpoint:
        config = head_config(checkpoint, HeadOptions(**said))
        assert config is not None
        with Evaluator(config, open_tasks(["digits"]), options) as evaluator:
            evaluator.load(checkpoint)
            (hits,) = evaluator.outcomes()
    assert isinstance(hits, Hits)
    close = logits.topk(2, dim=1).values.diff(dim=1).abs()[:, 0].numpy() < 1e-3
    assert close.mean() <= 0.1
    np.testing.assert_array_equal(hits.predicted[~close], logits.argmax(dim=1).numpy()[~close])  # type: ignore[index]
    (score,) = result.scores
    right = logits.argmax(dim=1).numpy() == labels
    expected = {"acc1": right.mean(), "mean_per_class_recall": balanced_accuracy_score(labels, logits.argmax(dim=1))}
    if not close.any():
        assert {k: score.metrics[k] for k in expected} == pytest.approx(expected, abs=1e-9)
    assert any(f"outputs are classes {how}" in note for note in result.notes), result.notes
    again = evaluate([ref], ["digits"], options=options, **said)
    assert again.scores == result.scores


def test_probabilities_of_a_head_are_its_own_softmax(tmp_path: Path) -> None:
    classify = of_timm(tmp_path / "model")
    images, labels = digits()
    with torch.inference_mode():
        log_p = torch.stack([classify(image) for image in images]).double().log_softmax(dim=1)
    options = EvaluationOptions(limit=60)
    (score,) = evaluate([tmp_path / "model"], ["digits"], options=options, calibration=True).scores
    assert score.metrics["nll"] == pytest.approx(-log_p[range(60), labels].mean().item(), abs=1e-4)


def test_a_head_and_a_clip_are_scored_side_by_side_and_compared(
    digit_models: list[Path], tmp_path: Path, inline: Run
) -> None:
    of_timm(tmp_path / "model")
    arguments = ["evaluate", tmp_path / "model", digit_models[1], "--task", "digits", "--cache", tmp_path / "cache"]
    done = inline(*arguments, "--json")
    document = json.loads(done.stdout)
    alone = [json.loads(inline("evaluate", ref, *arguments[3:], "--json").stdout) for ref in arguments[1:3]]
    assert [s["value"] for s in document["scores"]] == [a["scores"][0]["value"] for a in alone]
    assert document["pairs"][0]["only_first"] + document["pairs"][0]["only_second"] > 0


def config_of(labels: list[str] | None, outputs: int, **more: Any) -> dict[str, Any]:
    return {"head": "timm", "labels": labels, "outputs": outputs, **more}


def task_of(classnames: list[str]) -> Task:
    return Task("task", "test", "classification", "acc1", None, tuple(classnames), ("{c}",))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "classes", "outputs", "how"),
    [
        (config_of(["cat", "hot_dog", "Dog"], 3), ["dog", "hot dog"], (2, 1), "by name"),
        (config_of(["tench, Tinca tinca", "goldfish"], 2), ["goldfish", "Tinca tinca"], (1, 0), "by name"),
        (config_of(["crane, bird", "crane, machine"], 2), ["machine", "bird"], (1, 0), "by name"),
        (config_of(None, 2), ["a", "b"], (0, 1), "by position, 2 of each"),
        (config_of(["x", "y", "z"], 3, label_map=["z", "0"]), ["a", "b"], (2, 0), "by --label-map"),
    ],
)
def test_outputs_are_brought_together_with_classes(
    config: dict[str, Any], classes: list[str], outputs: tuple[int, ...], how: str
) -> None:
    found = map_labels(config, task_of(classes), "model")
    assert found.outputs == outputs and found.how.startswith(how)


def test_a_head_of_imagenet_knows_open_clips_names_of_a_part_of_it() -> None:
    from open_clip import IMAGENET_CLASSNAMES
    from timm.data import ImageNetInfo

    part = [IMAGENET_CLASSNAMES[i] for i in (999, 0, 217)]
    info = ImageNetInfo("imagenet-1k")
    for labels in (None, list(info.label_names()), list(info.label_descriptions())):
        assert map_labels(config_of(labels, 1000), task_of(part), "model").outputs == (999, 0, 217)
    whole = map_labels(config_of(None, 1000), task_of(list(IMAGENET_CLASSNAMES)), "model")
    assert whole.outputs == tuple(range(1000)) and "ImageNet's numbers" in whole.how


@pytest.mark.parametrize("subset", ["a", "r"])
def test_a_head_of_imagenet_knows_its_subsets_though_two_classes_have_one_name(subset: str) -> None:
    """The numbers are timm's. ImageNet-R has one of the two missiles; CLIP_benchmark writes open_clip's names."""
    from open_clip import IMAGENET_CLASSNAMES

    numbers = [
        int(n) for n in (Path(timm.data.__file__).parent / f"_info/imagenet_{subset}_indices.txt").read_text().split()
    ]
    names = [IMAGENET_CLASSNAMES[i] for i in numbers]
    assert map_labels(config_of(None, 1000), task_of(names), "model").outputs == tuple(numbers)


@pytest.mark.parametrize(
    ("numbers", "known"),
    [
        ((836, 837), True),
        ((1, 744, 837, 900), False),  # either pair of sunglasses
        ((656, 657, 658), True),
        ((743, 744, 745), True),
        ((744, 1), False),  # not in ImageNet's order
        ((657,), False),
    ],
)
def test_names_of_two_classes_are_told_apart_by_imagenets_order_or_not_at_all(
    numbers: tuple[int, ...], known: bool
) -> None:
    from open_clip import IMAGENET_CLASSNAMES

    task = task_of([IMAGENET_CLASSNAMES[i] for i in numbers])
    if known:
        assert map_labels(config_of(None, 1000), task, "model").outputs == numbers
    else:
        with pytest.raises(DataError, match="head of 1000 classes without names"):
            map_labels(config_of(None, 1000), task, "model")


@pytest.mark.parametrize(
    ("config", "classes", "says"),
    [
        (config_of(["cat", "dog"], 2), ["cat", "bird"], "none of them is 'bird'"),
        (config_of(None, 3), ["cat", "dog"], "head of 3 classes without names, and the task has 2"),
        (config_of(["cat", "cat"], 2), ["cat", "dog"], "none of them is 'dog'"),
        (config_of(["x"] * 1000, 1000), ["tench"], "none of them is 'tench'"),
        (config_of(["x", "y"], 2, label_map=["x"]), ["a", "b"], "has 1 lines, and task 2 classes"),
        (config_of(["x", "y"], 2, label_map=["x", "2"]), ["a", "b"], "names '2', which is no output"),
        (
            config_of(["x", "y"], 2, label_map=["y", "1"]),
            ["a", "b"],
            "names output 1 again, which line 1 names already",
        ),
    ],
)
def test_heads_and_tasks_of_other_classes_are_refused(config: dict[str, Any], classes: list[str], says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        map_labels(config, task_of(classes), "model")
    assert caught.value.hint


def test_a_head_does_not_find_captions(colours: Path, tmp_path: Path) -> None:
    of_timm(tmp_path / "model")
    (colours / "dataset_type.txt").write_text("multilabel")
    with pytest.raises(SoupkitError):
        evaluate([tmp_path / "model"], [str(colours)], options=EvaluationOptions())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"architecture": "hf-hub:someone/model"}, "no architecture of timm's"),
        ({"architecture": "no_such_model"}, "cannot be built by timm"),
        ({"label_names": [f"d{i % 10}" for i in range(12)]}, "names 12 classes of a head of 10"),
        (
            {"model_args": {"num_classes": 10, "checkpoint_path": "/etc/passwd", "depth": 1}},
            "which its config does not",
        ),
    ],
)
def test_a_config_that_names_something_else_is_refused(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    of_timm(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ArchitectureError, match=says):
        evaluate([tmp_path / "model"], ["digits"], options=EvaluationOptions(limit=2))


@pytest.mark.parametrize(
    ("builder", "says"),
    [
        ("torchvision.models", "is no MODULE:FUNCTION"),
        ("no.such.module:build", "cannot be found"),
        ("torchvision.models:no_such_function", "cannot be found"),
        ("torchvision.models:resnet18(num_classes=__import__('os'))", "cannot be found"),
        ("os.path:join", "cannot be built by builder"),
        ("builtins:dict", "gives a dict"),
    ],
)
def test_a_builder_that_builds_nothing_is_refused(builder: str, says: str, tmp_path: Path) -> None:
    of_torchvision(tmp_path / "model")
    with pytest.raises(SoupkitError, match=says):
        evaluate([tmp_path / "model" / "model.pt"], ["digits"], builder=builder, options=EvaluationOptions())
