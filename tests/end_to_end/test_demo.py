"""The demo, the shipped digits, and the examples, as a newcomer meets them."""

import gzip
import hashlib
import json
import runpy
import tarfile
from pathlib import Path

import pytest

from soupkit.evaluation.metrics import wilson
from soupkit.evaluation.tasks import DIGITS, open_tasks
from soupkit.evaluation.transform import decode
from tests.conftest import soupkit
from tests.processes import Started, run_script

ROOT = Path(__file__).parents[2]
# The demo trains four models: a machine with other work to do takes longer than any other test may.
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    place = tmp_path_factory.mktemp("demo")
    done = soupkit("demo", "--json", cwd=place, timeout=1000)
    assert done.returncode == 0, done.stderr
    return place / "soupkit-demo", json.loads(done.stdout)


def test_the_demo_trains_merges_and_scores(demo: tuple[Path, dict[str, object]]) -> None:
    _, document = demo
    scores = document["scores"]
    assert isinstance(scores, list)
    assert [Path(s["ref"]).name for s in scores] == ["stage1", "a", "b", "c", "soup"]
    for score in scores:
        assert score["n"] == 497 and 0.85 < score["low"] < score["value"] < score["high"]
    ingredients = [s["value"] for s in scores[1:4]]
    assert scores[4]["value"] > sum(ingredients) / 3, "a soup of fine-tunes is better than they are on average"


def test_the_demo_again_keeps_what_is_there(demo: tuple[Path, dict[str, object]]) -> None:
    place, _ = demo
    stamp = (place / "a" / "open_clip_model.safetensors").stat().st_mtime_ns
    done = soupkit("demo", cwd=place.parent)
    assert done.returncode == 0 and "the soup against its best ingredient" in done.stdout
    assert (place / "a" / "open_clip_model.safetensors").stat().st_mtime_ns == stamp


def test_the_examples_run(demo: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    place, _ = demo
    for script, arguments in {
        "merge_two.py": [place / "a", place / "b", tmp_path / "two"],
        "largest_changes.py": [place / "stage1", place / "a"],
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
