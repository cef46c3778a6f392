"""Every table that a command prints, on terminals of four widths: nothing is cut, and it stays as it was.

A file of snapshots/ holds a table at each width. SOUPKIT_SNAPSHOTS=write writes them.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from soupkit.checkpoint import Comparison, compare, open_headers
from soupkit.checkpoint.architecture import architecture_of
from soupkit.checkpoint.lineage import Pair
from soupkit.cli import cache, doctor, inspect, interpolate, plugins, push, search_output
from soupkit.cli import compare as comparison_output
from soupkit.cli.calibration_table import show_calibration
from soupkit.cli.classify import show_labelled
from soupkit.cli.demo import show_scores as show_demo
from soupkit.cli.output import plain_console
from soupkit.evaluation import Evaluation
from soupkit.evaluation.classify import Labelled
from soupkit.evaluation.task import Bin, Reliability, Score
from soupkit.extensions import Table
from soupkit.publishing.hub.planned_files import PlannedFile
from soupkit.publishing.hub.push import PushResult
from soupkit.search.document import SearchDocument
from soupkit.search.interpolation_document import InterpolationDocument
from soupkit.search.run_search import SearchResult
from tests.cli.test_score_table import RUNS, SNAPSHOTS, WIDTHS
from tests.conftest import random_state, save
from tests.publishing.conftest import score

Shown = Callable[[], None]


def at_each_width(show: Shown, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> dict[int, str]:
    """Return what `show` prints at each width, on stdout and stderr."""
    monkeypatch.setenv("NO_COLOR", "1")
    texts = {}
    for width in WIDTHS:
        monkeypatch.setenv("COLUMNS", str(width))
        show()
        said = capsys.readouterr()
        texts[width] = "".join(f"{line.rstrip()}\n" for line in (said.out + said.err).splitlines())
    return texts


def compared(name: str, texts: dict[int, str], whole: tuple[str, ...] = ()) -> None:
    """Compare what was shown with the snapshot; the words `whole` are there at every width, and nothing is cut."""
    path = SNAPSHOTS / f"{name}.txt"
    text = "\n".join(f"== {width} columns\n{shown}" for width, shown in texts.items())
    if os.environ.get("SOUPKIT_SNAPSHOTS") == "write":
        path.write_text(text)
    assert text == path.read_text()
    for width, shown in texts.items():
        assert all(word in shown for word in whole), (name, width)
        assert not re.search(r"…( |$)", shown, re.MULTILINE), (name, width)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[Shown], dict[int, str]]:
    return lambda show: at_each_width(show, monkeypatch, capsys)


@pytest.fixture
def named_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three checkpoints whose names differ in their last letter, one of them with other tensors."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(RUNS):
        state = random_state(seed)
        if seed == 2:
            del state["text_projection"]
            state["visual.ln_pre.bias"] = torch.zeros(9)
        save(Path(name), state)
    return RUNS


def test_compare(named_alike: list[str], shown: Callable[[Shown], dict[int, str]]) -> None:
    texts = shown(lambda: comparison_output._show(compare(named_alike)))
    compared("compare", texts, ("text_projection", "missing", "[9] instead of [7]"))
    first = compare(named_alike[:2])
    pairs = tuple(Pair(0, 1, tower, 0.0774, 0.997, 0.25) for tower in ("image", "text"))
    fields = {field: getattr(first, field) for field in ("refs", "architectures", "tensors", "configs", "problem")}
    near = Comparison(**fields, pairs=pairs, related=True, lineage="one lineage")
    compared("compare-weights", shown(lambda: comparison_output._show(near)), ("0.0774", "0.9970", "0.250", "image"))


def test_inspect(named_alike: list[str], shown: Callable[[Shown], dict[int, str]]) -> None:
    def show() -> None:
        with open_headers(named_alike[0]) as checkpoint:
            inspect._show(checkpoint, architecture_of(checkpoint), True)

    compared("inspect", shown(show), ("token_embedding.weight", "1031x97", "scalar"))


def test_search(search: dict[str, Any], shown: Callable[[Shown], dict[int, str]]) -> None:
    search["report"] = [
        score(ref, 0.6 + i / 10, "wds/vtab/cifar10", "test") for i, ref in enumerate(("soup", "runs/a"))
    ]
    document = SearchDocument.model_validate(search)
    result = SearchResult("written", Path("soups/greedy"), 3.0, search=document)
    compared("search", shown(lambda: search_output.show_search(result)), ("92.50 ±2.0", "60.00 ±2.0", "runs/b"))


def test_interpolate(interpolation: dict[str, Any], shown: Callable[[Shown], dict[int, str]]) -> None:
    document = InterpolationDocument.model_validate(interpolation)
    compared("interpolate", shown(lambda: interpolate._show(document)), ("0.75", "91.00 ±2.0", "66.00 ±2.0"))


def test_classify(shown: Callable[[Shown], dict[int, str]]) -> None:
    labels = ("a photo of a dog", "a photo of a cat", "a photo of a very long train", "a diagram")
    labelled = Labelled(labels, ((0.7, 0.2, 0.0625, 0.0375), (0.05, 0.85, 0.04, 0.06)), "softmax", "xxh3:0")
    pictures = [Path("holidays/2025/IMG_20250711_101500.jpg"), Path("b.png")]
    compared("classify", shown(lambda: show_labelled(labelled, pictures)), ("70.00 %", "85.00 %", "6.25 %", labels[2]))


def test_push(shown: Callable[[Shown], dict[int, str]]) -> None:
    names = {"README.md": 3_720, "open_clip_model.safetensors": 5_080_000_000, "figures/search.png": 43_107}
    files = tuple(PlannedFile(name, size, f"{size:064x}", "", "new") for name, size in names.items())
    note = "the licence is that of both ingredients"
    result = PushResult("planned", "me/soup", "main", "xxh3:0", files, None, None, None, None, 1.0, (note,))
    sending = ["soupkit", "push", Path("soups/greedy"), "me/soup", "--license", "mit"]
    compared("push", shown(lambda: push._show(result, sending)), ("README.md", "5.1 GB", "search.png"))


def test_calibration(shown: Callable[[Shown], dict[int, str]]) -> None:
    metrics = {"ece": 0.0312, "nll": 0.71, "brier": 0.21, "temperature": 1.31, "ece_at_temperature": 0.01}
    scores = [Score(ref, None, "digits", "test", "acc1", 0.8, 497, 0.77, 0.83, metrics) for ref in RUNS[:2]]
    bins = tuple(Reliability(s.ref, s.task, s.split, (Bin(497, 0.8, 0.8),)) for s in scores)
    result = Evaluation(tuple(scores), (), 1.0, {}, reliability=bins)
    names = {ref: f"run-{i}" for i, ref in enumerate(RUNS)}
    texts = shown(lambda: show_calibration(result, names, plain_console()))
    compared("calibration", texts, ("0.0312", "1.3100", "run-1, digits:test"))


def test_cache(shown: Callable[[Shown], dict[int, str]]) -> None:
    ages = (0.1, 1.2, 40.0, None)
    folders = [
        cache.CacheFolder(kind, holds, 10 * i, 10**6 * i, ages[i % 4])
        for i, (kind, holds) in enumerate(cache.KINDS.items())
    ]
    texts = shown(lambda: cache._show(Path("/home/me/.cache/soupkit"), folders))
    compared("cache", texts, ("decoded images", "today", "a day ago", "40 days ago"))


def test_doctor(shown: Callable[[Shown], dict[int, str]]) -> None:
    sections = {
        "versions": {"soupkit": "0.1.0", "torch": "2.14.1"},
        "machine": {"system": "Linux 6.18, x86_64", "GPU": "NVIDIA H100 80GB HBM3, 85.0 GB, driver of CUDA 13.0, bf16"},
        "plugins": {"methods": "30, of soupkit", "metrics": "31, of soupkit, a-package-with-a-name"},
    }
    texts = shown(lambda: doctor._show(sections, ["torch 2.5 is older than soupkit needs (2.6)"]))
    compared("doctor", texts, ("2.14.1", "31, of soupkit", "problem: torch 2.5"))


def test_plugins(shown: Callable[[Shown], dict[int, str]]) -> None:
    class Row:
        def __init__(self, name: str, summary: str) -> None:
            self.name, self.summary = name, summary

    table: Table[Row] = Table("merge method", Row, group="soupkit.none", option="--method", modules=())
    table.add(Row("uniform", "the mean of all ingredients"))
    table.add(Row("a_method_with_a_long_name", "what a package among others says of its method, at some length"))
    texts = shown(lambda: plugins._show(table))
    compared("plugins", texts, ("a_method_with_a_long_name", "this program", "uniform"))


def test_the_demo(shown: Callable[[Shown], dict[int, str]]) -> None:
    values = {"stage1": 0.868, "a": 0.924, "b": 0.921, "c": 0.928, "uniform": 0.939, "greedy": 0.939}
    scores = {
        name: Score(name, None, "digits", "test", "acc1", v, 497, v - 0.02, v + 0.02) for name, v in values.items()
    }
    compared("demo", shown(lambda: show_demo(scores)), ("92.4 %", "90.4 to 94.4", "greedy soup"))
