"""The search benchmarks count what it says, and its plain search finds what soupkit's does."""

import time
from pathlib import Path

import pytest

from benchmarks.search.arithmetic import Rates, measure_model, reckon, resident
from benchmarks.search.published import Clock, PublishedSearch
from benchmarks.search.simulated import images_per_trial, search, simulated_pool
from soupkit.evaluation import EvaluationOptions, open_tasks
from soupkit.search import SearchOptions, greedy_search


def test_exact_finds_the_simulated_soup_of_a_full_search_with_fewer_images() -> None:
    pool = simulated_pool(3, 8, 2000)
    none, exact = (search(pool, rule, 32) for rule in ("none", "exact"))
    assert none.members == exact.members and none.accuracy == exact.accuracy
    assert exact.lost == 0 and len(exact.rejected) == len(none.rejected) > 0
    assert max(none.rejected) == 1.0 > max(exact.rejected)
    lines = images_per_trial(2, 6, 1000, (32,))
    assert any(line.startswith("| `exact` | 32 |") for line in lines)


def test_the_plain_search_finds_the_soup_that_soupkit_finds(tiny_clips: list[Path], tmp_path: Path) -> None:
    refs = [str(place) for place in tiny_clips]
    clock = Clock(time.perf_counter)
    (task,) = open_tasks(["digits"], split="val")
    soup, hits = PublishedSearch(refs[0], task, 0, clock).greedy(refs)
    found = greedy_search(
        refs, tmp_path / "soup", tasks=["digits"], search=SearchOptions(stopping="none"),
        evaluation=EvaluationOptions(cache=tmp_path / "cache", device="cpu"),
    ).document.to_dict()  # fmt: skip
    assert found["selected"] == soup
    assert found["score"]["value"] == hits / len(task.dataset)
    assert set(clock.seconds) == {"load and average", "build", "classifier", "images"}


def test_the_arithmetic_counts_operations_as_open_clip_publishes_them(tmp_path: Path) -> None:
    model = measure_model("ViT-B-32")
    assert model.parameters == 151_277_313
    assert model.per_image + model.per_token * model.context == pytest.approx(14.78e9, rel=0.01)
    assert resident(model, 4)["the live model, bfloat16"] == 2 * model.parameters
    text = "\n".join(reckon("ViT-B-32", tmp_path, classes=2, rates=Rates(1e9, 1e10, 1e10)))
    assert "0.15 G parameters" in text and "No GPU was used" in text
