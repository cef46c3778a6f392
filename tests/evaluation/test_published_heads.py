"""Classifiers as other people publish them: checkpoints of their training scripts, and configs of years ago."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision

from soupkit.evaluation import EvaluationOptions, evaluate
from tests.evaluation.test_heads import of_transformers

LIMIT = EvaluationOptions(limit=4, device="cpu")


@pytest.mark.parametrize("kept", ["feature_extractor_type", None])
def test_a_processor_of_before_its_type_had_a_name_is_the_one_that_transformers_opens(
    kept: str | None, tmp_path: Path
) -> None:
    """google/vit-base-patch16-224 has a preprocessor_config.json without a type; others have ViTFeatureExtractor."""
    of_transformers(tmp_path / "model")
    options = EvaluationOptions(limit=60, device="cpu")
    (today,) = evaluate([tmp_path / "model"], ["digits"], options=options).scores
    path = tmp_path / "model" / "preprocessor_config.json"
    processor = json.loads(path.read_text())
    kind = processor.pop("image_processor_type")
    if kept:
        processor[kept] = kind.removesuffix("Fast").replace("ImageProcessor", "FeatureExtractor")
    path.write_text(json.dumps(processor))
    (score,) = evaluate([tmp_path / "model"], ["digits"], options=options).scores
    assert score.metrics == today.metrics


def test_a_processor_that_nobody_knows_is_named_with_the_way_out(tmp_path: Path) -> None:
    from soupkit.errors import CheckpointError

    of_transformers(tmp_path / "model")
    path = tmp_path / "model" / "preprocessor_config.json"
    processor = json.loads(path.read_text())
    path.write_text(json.dumps({**processor, "image_processor_type": "os.system"}))
    with pytest.raises(CheckpointError, match=r"names 'os\.system', which is no image processor") as caught:
        evaluate([tmp_path / "model"], ["digits"], options=LIMIT)
    assert "--preprocess FILE" in caught.value.hint


def reference_script(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What torchvision's references/classification/train.py saves, with the average of --model-ema."""
    average = {f"module.{name}": tensor for name, tensor in state.items()} | {"n_averaged": torch.tensor(3)}
    return {
        "model": state, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]}, "epoch": 89,
        "lr_scheduler": {"last_epoch": 90}, "args": Namespace(model="resnet18"), "model_ema": average,
    }  # fmt: skip


def timm_script(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What timm's CheckpointSaver saves."""
    return {
        "epoch": 9, "arch": "resnet18", "state_dict": state, "optimizer": {"state": {}}, "version": 2,
        "args": Namespace(model="resnet18", num_classes=10), "amp_scaler": {"scale": 65536.0}, "metric": 71.2,
    }  # fmt: skip


def imagenet_example(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What pytorch/examples/imagenet/main.py saves of a DataParallel model."""
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    return {"epoch": 90, "arch": "resnet18", "state_dict": wrapped, "best_acc1": torch.tensor(69.8), "scheduler": {}}


@pytest.mark.parametrize(
    ("script", "builder"),
    [
        (reference_script, "torchvision.models:resnet18(num_classes=10)"),
        (imagenet_example, "torchvision.models:get_model('resnet18', num_classes=10)"),
        (timm_script, "timm:create_model('resnet18', num_classes=10)"),
    ],
)
def test_a_checkpoint_of_a_training_script_scores_as_its_weights_alone(
    script: Any, builder: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    make = timm.create_model("resnet18", num_classes=10) if script is timm_script else torchvision.models.resnet18(
        num_classes=10
    )  # fmt: skip
    torch.save(script(make.state_dict()), tmp_path / "checkpoint.pth")
    torch.save(make.state_dict(), tmp_path / "weights.pth")
    result = evaluate(
        [tmp_path / "checkpoint.pth", tmp_path / "weights.pth"], ["digits"], builder=builder, options=LIMIT
    )
    assert result.scores[0].fingerprint == result.scores[1].fingerprint
    assert result.scores[0].metrics == result.scores[1].metrics
    assert any("by position, 10" in note for note in result.notes)
