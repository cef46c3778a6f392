"""The studies of soups: scenes are what captions say, statistics those of the books, and the digits run through."""

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import scipy.stats
import torch

from benchmarks.soups import classification
from benchmarks.soups.__main__ import ROOM
from benchmarks.soups.scenes import CELLS, CLASSES, find_source, make_scenes
from benchmarks.soups.study import STUDIES, runs_of, soups_of
from benchmarks.soups.table import gain_over, mean_interval
from soupkit.evaluation import Score, open_tasks

HEADER = {"images": 16, "labels": 8}


@pytest.fixture(scope="module")
def fashion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file set like Fashion-MNIST's, in which every pixel of a garment is its class plus one, made into scenes."""
    source = tmp_path_factory.mktemp("idx")
    for part, count in (("train", 60), ("t10k", 20)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = np.broadcast_to(labels[:, None, None] + 1, (count, 28, 28)).astype(np.uint8)
        for kind, array in (("images", images), ("labels", labels)):
            data = gzip.compress(bytes(HEADER[kind]) + array.tobytes())
            (source / f"{part}-{kind}-idx{array.ndim}-ubyte.gz").write_bytes(data)
    return make_scenes(find_source(source), source / "scenes", count=400)


def test_every_garment_that_a_caption_names_is_in_the_scene_and_where_it_says(fashion: Path) -> None:
    captions = []
    for shard in sorted((fashion / "train").glob("*.tar")):
        with tarfile.open(shard) as archive:
            files = {m.name: archive.extractfile(m).read() for m in archive}  # type: ignore[union-attr]
        for name in (n for n in files if n.endswith(".txt")):
            scene = np.asarray(PIL.Image.open(io.BytesIO(files[name.replace("txt", "png")])))
            cells = dict(zip(CELLS, (scene[14, 14], scene[14, 42], scene[42, 14], scene[42, 42]), strict=True))
            caption = files[name].decode()
            captions.append(caption)
            if caption.startswith("photo of "):
                words = caption.removeprefix("photo of ").replace(" and ", ", ").split(", ")
                assert {CLASSES.index(word) + 1 for word in words} <= set(cells.values())
            else:
                for part in caption.split(", "):
                    cell = next(c for c in CELLS if part.endswith(" " + c))
                    assert cells[cell] == CLASSES.index(part.removesuffix(" " + cell)) + 1
    assert len(captions) == 400 and len(set(captions)) > 200


@pytest.mark.parametrize(("split", "count"), [("val", 10), ("test", 20)])
def test_the_label_is_that_of_the_one_garment(fashion: Path, split: str, count: int) -> None:
    (task,) = open_tasks([f"{fashion / 'single'}:{split}"])
    assert task.classnames == CLASSES and len(task.dataset) == count
    for i in range(count):
        sample = task.dataset.read(i)
        scene = np.asarray(PIL.Image.open(io.BytesIO(sample.data)))
        assert scene.max() == sample.label + 1 and (scene > 0).mean() == 0.25


def test_without_the_data_it_says_where_they_come_from(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="dataset-fashion-mnist"):
        find_source(tmp_path)


def test_a_gain_is_the_mean_of_the_paired_differences_with_its_interval() -> None:
    soup = np.array([1] * 700 + [0] * 300)
    best = np.array([1] * 650 + [0] * 50 + [1] * 30 + [0] * 270)
    gain = gain_over("a", 50, 30, 1000, 0.03)
    differences = 100.0 * (soup - best)
    half = scipy.stats.norm.ppf(0.975) * differences.std() / np.sqrt(1000)
    assert gain.points == pytest.approx(differences.mean())
    assert (gain.low, gain.high) == pytest.approx((differences.mean() - half, differences.mean() + half))


def test_the_mean_over_seeds_has_students_interval() -> None:
    values = [1.0, 2.5, 0.5, 3.0, 2.0]
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean_interval(values) == pytest.approx((np.mean(values), *expected))


def test_a_set_of_seeds_is_trained_merged_scored_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--seeds", "1", "--minutes", "0.01", "--work", str(tmp_path), "--output", str(tmp_path / "t")]
    ROOM.run(["digits", *options])
    table = (tmp_path / "t").read_text()
    assert "The soup beats its best ingredient with" in table and "| 1 | " in table
    weights = tmp_path / "digits-0.01-minutes" / "seeds-1" / "soup-uniform" / "open_clip_model.safetensors"
    stamp = weights.stat().st_mtime_ns
    ROOM.run(["digits", *options])
    assert (tmp_path / "t").read_text() == table and weights.stat().st_mtime_ns == stamp
    assert torch.get_num_threads() >= 1 and table in capsys.readouterr().out


def test_the_settings_keep_their_proportions_and_the_longer_schedule_begins_where_stage_1_ends() -> None:
    (fashion,) = (study for study in STUDIES if study.name == "fashion")
    for factor in (0.1, 1.0):
        runs = runs_of(fashion, factor)
        stage1, a, b, c = (runs[name].entry for name in ("stage1", "a", "b", "c"))
        assert a.continued_from == stage1.steps * stage1.batch_size
        assert a.samples / stage1.samples == pytest.approx(0.2) and b.samples / a.samples == pytest.approx(2)
        assert c.stop_at == pytest.approx(0.35 * c.samples) and stage1.patch_dropout == 0.5 and not a.patch_dropout
    assert soups_of(fashion.recipe, list(runs)) == {
        "published": ["a", "b", "c"],
        "constant": ["d", "e", "f"],
    }


def test_what_classifiers_reach_is_shown_with_the_mean_over_sets_of_seeds() -> None:
    names = ("zeroshot", "tune-1", "tune-2", "uniform", "greedy")
    sets = [
        classification.Seeds(
            number,
            {
                n: Score(n, None, "t", "test", "acc1", (60 + 2 * number + i) / 100, 100, 0.5, 0.7)
                for i, n in enumerate(names)
            },
            {0.0: 60.0 + number, 1.0: 70.0 - number},
            gain_over("tune-2", 5, 3, 100, 0.7),
        )
        for number in (1, 2)
    ]
    table = "\n".join(classification.accuracy_table(sets))
    assert "| seeds | zeroshot | tune-1 | tune-2 | uniform | greedy |" in table
    assert "| 2 | 64.0 (50.0 to 70.0) | 65.0" in table and "+2.00 (-3.53 to +7.53), tune-2 | 0.7 |" in table
    low, high = scipy.stats.t.interval(0.95, 1, 63, scipy.stats.sem([62, 64]))
    assert f"| mean | 63.00 ({low:.2f} to {high:.2f}) |" in table
    curve = classification.curve_table(sets)
    assert curve[-3:-1] == ["| 1 | 61.0 | 69.0 |", "| 2 | 62.0 | 68.0 |"] and curve[-1].startswith("| mean | 61.50 (")
