"""The demo, the shipped digits, and the examples, as a newcomer meets them."""

import gzip
import hashlib
import json
import runpy
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors import safe_open

from soupkit.evaluation.intervals import wilson
from soupkit.evaluation.tasks import DIGITS, open_tasks
from soupkit.evaluation.transform import decode
from tests.processes import Started, environment, run_script, soupkit

ROOT = Path(__file__).parents[2]
# The demo trains four models: a machine with other work to do takes longer than any other test may.
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    place = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "soupkit", "demo", "--json"]  # a new interpreter, as a newcomer has
    done = subprocess.run(command, capture_output=True, text=True, cwd=place, env=environment(), timeout=1000)
    assert done.returncode == 0, done.stderr
    return place / "soupkit-demo", json.loads(done.stdout)


def test_the_demo_trains_merges_searches_and_scores(demo: tuple[Path, dict[str, Any]]) -> None:
    place, document = demo
    scores = {Path(s["ref"]).name: s for s in document["scores"]}
    assert list(scores) == ["stage1", "a", "b", "c", "uniform", "greedy"]
    for score in scores.values():
        assert score["n"] == 497 and score["split"] == "test" and 0.85 < score["low"] < score["value"] < score["high"]
    ingredients = [scores[name]["value"] for name in "abc"]
    assert scores["uniform"]["value"] > sum(ingredients) / 3, "a soup of fine-tunes beats what they are on average"
    search = json.loads((place / "soup" / "greedy" / "search.json").read_text())
    assert search["score"]["split"] == "val" and not search["optimistic"]
    assert search["score"]["value"] >= search["best_ingredient"]["value"]


def test_the_demo_is_a_run_of_the_shipped_recipe_and_nothing_else(demo: tuple[Path, dict[str, Any]]) -> None:
    place, document = demo
    steps = [s["name"] for s in document["steps"]]
    again = soupkit("run", ROOT / "recipes" / "digits.yaml", "-o", place.name, "--dry-run", "--json", cwd=place.parent)
    assert again.returncode == 0, again.stderr
    assert {s["name"]: s["status"] for s in json.loads(again.stdout)["steps"]} == dict.fromkeys(steps, "unchanged")
    stamps = {p: p.stat().st_mtime_ns for p in place.rglob("*.safetensors")}
    done = soupkit("demo", cwd=place.parent)
    assert (
        done.returncode == 0
        and "against the best ingredient" in done.stdout
        and "against the uniform soup" in (" ".join(done.stdout.split()))
    )
    assert stamps == {p: p.stat().st_mtime_ns for p in place.rglob("*.safetensors")}


def test_the_demo_ends_with_what_the_hub_would_hold(demo: tuple[Path, dict[str, Any]]) -> None:
    place, _ = demo
    hub = place / "hub"
    held = {str(p.relative_to(hub)) for p in hub.rglob("*") if p.is_file()}
    assert held == {
        "README.md", "open_clip_config.json", "open_clip_model.safetensors", "scores.json", "scores-1.png",
        "scores-2.png", "search.json", "search.png", "soup.json",
    }  # fmt: skip
    card = ModelCard.load(hub / "README.md")
    assert card.data.library_name == "open_clip" and card.data.eval_results
    record = json.loads((hub / "soup.json").read_text())
    assert record["output"]["sha256"] == hashlib.sha256((hub / "open_clip_model.safetensors").read_bytes()).hexdigest()
    assert not any(str(place.parent).encode() in (hub / name).read_bytes() for name in held)
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{hub}")
    with safe_open(place / "soup" / "greedy" / "open_clip_model.safetensors", "pt") as file:
        assert all(torch.equal(tensor, file.get_tensor(name)) for name, tensor in model.state_dict().items())


def test_the_examples_run(demo: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    place, _ = demo
    for script, arguments in {
        "merge_two.py": [place / "train" / "a", place / "train" / "b", tmp_path / "two"],
        "largest_changes.py": [place / "train" / "stage1", place / "train" / "a"],
    }.items():
        done = Started(run_script, ([str(ROOT / "examples" / script), *map(str, arguments)],), tmp_path).wait()
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


def members(split: str) -> dict[str, bytes]:
    with tarfile.open(DIGITS / split / "0.tar", "r:*") as archive:
        return {m.name: archive.extractfile(m).read() for m in archive}  # type: ignore[union-attr]


def test_no_image_is_in_two_splits() -> None:
    seen: set[str] = set()
    for split, n in {"train": 1000, "val": 300, "test": 497}.items():
        (task,) = open_tasks([f"digits:{split}"])
        images = [decode(task.dataset.read(i).data).tobytes() for i in range(len(task.dataset))]
        digests = {hashlib.sha256(image).hexdigest() for image in images}
        assert len(images) == n and len(digests) == n and not digests & seen
        seen |= digests


def test_the_shipped_digits_are_small_and_made_again_by_the_script(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    assert sum(f.stat().st_size for f in DIGITS.rglob("*") if f.is_file()) < 1_000_000
    runpy.run_path(str(ROOT / "scripts" / "make_digits.py"))["make"](tmp_path)
    for file in (f for f in DIGITS.rglob("*") if f.is_file()):
        made = (tmp_path / file.relative_to(DIGITS)).read_bytes()
        unpack = gzip.decompress if file.suffix == ".tar" else bytes
        assert unpack(made) == unpack(file.read_bytes()), file


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"), [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (95, 100, 0.8882, 0.9785)]
)
def test_wilson_intervals_are_those_of_the_textbook(hits: int, n: int, low: float, high: float) -> None:
    assert wilson(hits, n) == pytest.approx((low, high), abs=1e-4)
