"""What a search does with input that cannot work, or tells little: said, refused, or left out."""

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.model import CLIP
from safetensors.torch import load_file, save_file

from soupkit.errors import ArchitectureError, CheckpointError, DataError, SoupkitError, StorageError, UsageError
from soupkit.evaluation import EvaluationOptions, Evaluator
from tests.evaluation.conftest import encoded, picture, write_lists, write_shards
from tests.search.conftest import Told

WEIGHTS = "open_clip_model.safetensors"


def test_what_cannot_be_searched_is_refused_before_anything_is_scored(
    search: Any, fine_tunes: list[Path], tiny_clips: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Evaluator, "hits", None)  # nothing may be scored
    copy = tmp_path / "copy"
    shutil.copytree(fine_tunes[0], copy)
    one = fine_tunes[0]
    cases: list[tuple[dict[str, Any], type[SoupkitError], str]] = [
        ({"refs": [one]}, UsageError, "at least 2"),
        ({"refs": [one, one]}, UsageError, "is all there is to search among"),
        ({"refs": [one, copy]}, UsageError, "is all there is to search among"),
        ({"refs": [one, tiny_clips[0]]}, ArchitectureError, "tensors"),
        ({"tasks": []}, UsageError, "no task"),
        ({"tasks": ["digits:validation"]}, DataError, "no split 'validation'"),
        ({"strategy": "random"}, UsageError, "--strategy"),
        ({"stopping": "early"}, UsageError, "--stopping"),
        ({"error_rate": 1.5, "stopping": "sequential"}, UsageError, "--error-rate"),
        ({"orders": 3, "strategy": "swap"}, UsageError, "--orders"),
        ({"strategy": "experts"}, UsageError, "several tasks"),
        ({"strategy": "experts", "correlation": 1.5}, UsageError, "--correlation"),
        ({"strategy": "weights", "budget": 0}, UsageError, "--budget"),
        ({"strategy": "weights", "blocks": ("audio.*",)}, UsageError, "matches no tensor"),
        ({"blocks": ("visual.*",)}, UsageError, "--block"),
    ]
    for arguments, kind, words in cases:
        with pytest.raises(kind, match=words):
            search(**arguments)
    assert not (tmp_path / "soup").exists() and not (tmp_path / "soup.partial").exists()


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_ingredient_that_is_not_finite_is_named_or_left_out(
    search: Any, fine_tunes: list[Path], tmp_path: Path, value: float
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(fine_tunes[1], broken)
    state = load_file(broken / WEIGHTS)
    state["visual.proj"] = state["visual.proj"].clone()
    state["visual.proj"][0, 0] = value
    save_file(state, broken / WEIGHTS)
    refs = [fine_tunes[0], broken, fine_tunes[2]]
    with pytest.raises(CheckpointError, match=r"broken.*visual\.proj"):
        search(refs=refs)
    result = search(refs=refs, keep_going=True)
    assert str(broken) not in [s["ref"] for s in result.document.to_dict()["ingredients"]]
    assert any("left out" in note for note in result.notes)


def test_a_task_with_too_few_images_to_tell_anything_is_said_before_the_first_trial(
    search: Any, fine_tunes: list[Path], cache: Path
) -> None:
    told = Told()
    few = EvaluationOptions(cache=cache, limit=20, batch_size=16, device="cpu")
    document = search(refs=fine_tunes[:2], evaluation=few, progress=told).document.to_dict()
    (said,) = [note for note in told.notes if "too few to tell the ingredients apart" in note]
    assert said.startswith("20 images select") and said in document["notes"]
    told = Told()
    many = EvaluationOptions(cache=cache, limit=700, batch_size=16, device="cpu")
    search("many", refs=fine_tunes[:2], tasks=["digits:train"], evaluation=many, progress=told)
    assert not any("too few" in note for note in told.notes)


@pytest.fixture
def flags(tmp_path: Path) -> Path:
    """A multi-label task of 24 images, whose mean average precision is no sum of hits."""
    generator = np.random.default_rng(0)
    samples = []
    for n in range(24):
        buffer = io.BytesIO()
        np.save(buffer, generator.integers(0, 2, 3))
        samples.append({"png": encoded(picture(n), "png"), "npy": buffer.getvalue()})
    write_lists(tmp_path / "flags", ["one", "two", "three"], ["a {c}"], "multilabel")
    return write_shards(tmp_path / "flags", "val", samples)


@pytest.mark.parametrize("strategy", ["greedy", "weights", "experts"])
def test_other_metrics_take_full_passes_and_that_is_said(
    search: Any, fine_tunes: list[Path], cache: Path, flags: Path, strategy: str
) -> None:
    told = Told()
    options = EvaluationOptions(cache=cache, limit=40, batch_size=16, device="cpu")
    found = search(
        refs=fine_tunes[:3],
        tasks=[str(flags), "digits"],
        evaluation=options,
        progress=told,
        strategy=strategy,
        **({"budget": 6} if strategy != "greedy" else {}),
    ).document.to_dict()
    assert any("(mean_average_precision, acc1) is no sum of hits: every trial is a full pass" in n for n in told.notes)
    assert found["stopping"] == "none" and found["score"]["metric"] == "mean"
    assert all(d["images"] == 64 and d["value"] is not None and d["hits"] is None for d in found["decisions"])
    assert found["score"]["value"] >= found["best_ingredient"]["value"]


def test_a_device_without_room_gets_smaller_batches_and_at_one_image_an_error(
    search: Any, fine_tunes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {
        "refs": fine_tunes[:3],
        "evaluation": EvaluationOptions(cache=tmp_path / "c", limit=50, batch_size=16, device="cpu", scores=False),
    }
    want = search("roomy", **options).document.to_dict()
    plain, room, sizes = CLIP.encode_image, 5, []

    def tight(self: Any, images: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        sizes.append(len(images))
        if len(images) > room:
            raise torch.OutOfMemoryError("no room for this batch")
        return plain(self, images, normalize)

    monkeypatch.setattr(CLIP, "encode_image", tight)
    found = search("tight", **options).document.to_dict()
    assert sizes[:3] == [16, 8, 4] and set(sizes[3:]) == {4}
    assert [d["decision"] for d in found["decisions"]] == [d["decision"] for d in want["decisions"]]
    assert found["score"]["fingerprint"] == want["score"]["fingerprint"]
    room = 0
    with pytest.raises(StorageError, match="no room for one image"):
        search("none", **options)
    assert not (tmp_path / "none").exists()


def test_no_memory_for_the_running_sum_is_an_error_before_the_start(
    search: Any, fine_tunes: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("soupkit.search.running_sum.available_memory", lambda: 1000)
    monkeypatch.setattr(Evaluator, "hits", None)  # nothing may be scored
    with pytest.raises(StorageError, match=r"the running sum takes .* GB, and 0.0 GB of memory are free"):
        search(refs=fine_tunes[:2])
