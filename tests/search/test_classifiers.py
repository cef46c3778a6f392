"""Searches and curves over classifiers with a head: what they say is what `evaluate` says of the written soup."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import soupkit
from soupkit.errors import ArchitectureError
from soupkit.evaluation import EvaluationOptions
from soupkit.search import interpolate
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
