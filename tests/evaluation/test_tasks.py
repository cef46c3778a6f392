"""What `--task` understands, and what it says of everything else."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from soupkit.checkpoint import open_checkpoint
from soupkit.errors import DataError, SoupkitError, UsageError
from soupkit.evaluation import EvaluationOptions, Evaluator, evaluate, open_tasks
from soupkit.evaluation.known_tasks import KNOWN, SUITES
from tests.evaluation.conftest import encoded, picture, write_lists, write_shards

HEADER = (
    "ImageNet 1k,Caltech-101,CIFAR-10,CIFAR-100,CLEVR Counts,CLEVR Distance,Country211,Describable Textures,EuroSAT,"
    "FGVC Aircraft,Food-101,GTSRB,ImageNet Sketch,ImageNet v2,ImageNet-A,ImageNet-O,ImageNet-R,KITTI Vehicle Distance,"
    "MNIST,ObjectNet,Oxford Flowers-102,Oxford-IIIT Pet,Pascal VOC 2007,PatchCamelyon,Rendered SST2,RESISC45,"
    "Stanford Cars,STL-10,SUN397,SVHN,Flickr,MSCOCO,WinoGAViL,iWildCam,Camelyon17,FMoW,Dollar Street,GeoDE"
)


def test_every_column_of_open_clips_results_table_is_a_task() -> None:
    assert [k.alias for k in KNOWN] == HEADER.split(",")


@pytest.mark.parametrize("layout", ["wds_vtab-cifar10", "wds/vtab/cifar10", "vtab/cifar10"])
@pytest.mark.parametrize("name", ["wds/vtab/cifar10", "CIFAR-10", "vtab/cifar10"])
def test_named_tasks_are_found_below_the_data_root(tmp_path: Path, layout: str, name: str) -> None:
    folder = tmp_path / layout
    write_lists(folder, ["a", "b"], ["a {c}"])
    write_shards(folder, "test", [{"png": encoded(picture(0), "png"), "cls": b"1"}])
    (task,) = open_tasks([name], data_root=tmp_path)
    assert (task.name, task.split, task.metric) == ("wds/vtab/cifar10", "test", "acc1")
    assert task.dataset.read(0).label == 1


def test_a_suite_is_its_tasks_each_with_its_own_metric(tmp_path: Path) -> None:
    for name in SUITES["imagenet-shift"]:
        folder = tmp_path / name
        write_lists(folder, ["a", "b"], ["a {c}"])
        write_shards(folder, "test", [{"png": b"", "cls": b"0"}])
    tasks = open_tasks(["imagenet-shift"], data_root=tmp_path)
    assert [task.name for task in tasks] == list(SUITES["imagenet-shift"])
    metrics = {known.alias: known.metric for known in KNOWN}
    assert metrics["Oxford-IIIT Pet"] == "mean_per_class_recall" and metrics["Flickr"] == "mean_recall@1"


@pytest.mark.parametrize(
    ("task", "root", "message"),
    [
        ("ImageNet 1k", True, "looked for .*wds_imagenet1k"),
        ("ImageNet 1k", False, "--data-root"),
        ("imagenet_1k", True, "did you mean .*imagenet"),
        ("digits:validation", True, "it has test, train, val"),
        ("/nowhere/at/all", True, "nothing lies at that path"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, task: str, root: bool, message: str) -> None:
    with pytest.raises(SoupkitError, match=message):
        open_tasks([task], data_root=tmp_path if root else None)


def test_a_task_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="twice"):
        open_tasks(["digits", "digits:test"])


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """The digits' test images as an image folder, with the digits' own lists."""
    (digits,) = open_tasks(["digits"])
    root = tmp_path / "folder"
    for i in range(0, 497, 5):
        sample = digits.dataset.read(i)
        place = root / "test" / f"{sample.label}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i}.png").write_bytes(sample.data)
    write_lists(root, digits.classnames, digits.templates)
    return root


def test_folder_and_table_score_as_the_shards_do(pictures: Path, digit_models: list[Path], tmp_path: Path) -> None:
    (digits,) = open_tasks(["digits"])
    samples = [digits.dataset.read(i) for i in range(0, 497, 5)]
    shards = write_shards(tmp_path / "shards", "test", [{"png": s.data, "cls": str(s.label).encode()} for s in samples])
    write_lists(shards, digits.classnames, digits.templates)
    with (pictures / "test.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filepath", "label"])
        for i, sample in zip(range(0, 497, 5), samples, strict=True):
            writer.writerow([f"test/{sample.label}/{i}.png", digits.classnames[sample.label]])
    tasks = [str(pictures), str(pictures / "test.csv"), str(shards)]
    found = evaluate([digit_models[1]], tasks, options=EvaluationOptions(cache=tmp_path / "cache")).scores
    assert len({(s.value, s.n, s.low) for s in found}) == 1 and found[0].n == 100


def test_labels_that_moved_are_not_taken_from_the_cache(digit_models: list[Path], tmp_path: Path) -> None:
    """The files, their contents and their order stay the same: only what the folders and the class list say changes."""
    root = tmp_path / "folder"
    for name in ("a/1.png", "a/2.png", "b/3.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(picture(int(name[2])), "png"))
    (root / "classnames.txt").write_text("one\ntwo\n")
    (root / "all.csv").write_text("path,label\na/1.png,one\na/2.png,one\nb/3.png,two\n")
    places = (str(root), str(root / "all.csv"))

    def labels() -> list[list[int]]:
        options = EvaluationOptions(cache=tmp_path / "cache")
        with open_checkpoint(digit_models[0]) as c, Evaluator(c.config or {}, open_tasks(places), options) as e:
            return [pixels.labels.tolist() for pixels in e.pixels]

    assert labels() == [[0, 0, 1], [0, 0, 1]]
    (root / "a/2.png").rename(root / "b/2.png")
    (root / "all.csv").write_text("path,label\na/1.png,one\nb/2.png,one\nb/3.png,two\n")
    (root / "classnames.txt").write_text("two\none\n")
    assert labels() == [[0, 1, 1], [1, 1, 0]]
    (root / "classnames.txt").write_text("one\ntwo\n")
    assert labels() == [[0, 1, 1], [0, 0, 1]]


def test_folders_named_by_wordnet_ids_are_classes_of_imagenet(tmp_path: Path) -> None:
    from open_clip import IMAGENET_CLASSNAMES

    for wnid in ("n01440764", "n02102040", "n15075141"):
        (tmp_path / wnid).mkdir()
        (tmp_path / wnid / "x.jpg").write_bytes(encoded(picture(1), "jpg"))
    (task,) = open_tasks([str(tmp_path)])
    assert task.classnames == (IMAGENET_CLASSNAMES[0], IMAGENET_CLASSNAMES[217], IMAGENET_CLASSNAMES[999])
    assert len(task.templates) == 80 and all("{c}" in t for t in task.templates)
    assert "3 of 1000" in task.notes[0]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("zeroshot_classification_templates.txt", "a photo\n", "no place for the class name"),
        ("classnames.txt", "a\n\nb\n", "line 2: is empty"),
        ("classnames.txt", "", "is empty"),
        ("dataset_type.txt", "segmentation", "no type of dataset"),
        ("test/nshards.txt", "3\n", r"2\.tar: is missing"),
        ("test/nshards.txt", "many\n", "number of shards"),
    ],
)
def test_a_damaged_layout_names_file_and_fault(colours: Path, file: str, text: str, message: str) -> None:
    (colours / file).write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        open_tasks([str(colours)])
    assert str(colours) in caught.value.where


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image_id,label\n1,2\n", "it needs path and label"),
        ("path,label\nx.png,\n", "line 2"),
        ("path,label,split\nx.png,a,train\n", "no rows of split 'test'"),
        ("path,label\n", "has no rows"),
    ],
)
def test_a_damaged_table_names_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        open_tasks([str(tmp_path / "x.csv")])
    assert "x.csv" in caught.value.where


def test_captions_of_one_path_belong_to_one_image(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(encoded(picture(0), "png"))
    (tmp_path / "t.tsv").write_text("path\tcaption\nx.png\tone, two\nx.png\tthree\n")
    (task,) = open_tasks([str(tmp_path / "t.tsv")])
    assert task.kind == "retrieval" and task.dataset.read(0).captions == ("one, two", "three")


def test_multilabel_flags_are_read(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([0, 1, 1]))
    write_lists(tmp_path / "m", ["a", "b", "c"], ["{c}"], "multilabel")
    write_shards(tmp_path / "m", "test", [{"png": b"", "npy": buffer.getvalue()}])
    (task,) = open_tasks([str(tmp_path / "m")])
    assert task.dataset.read(0).labels == (False, True, True)
    assert task.metric == "mean_average_precision"


def test_a_multilabel_task_without_any_label_is_refused(tmp_path: Path, digit_models: list[Path]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([0, 0]))
    write_lists(tmp_path / "m", ["a", "b"], ["{c}"], "multilabel")
    write_shards(tmp_path / "m", "test", [{"png": encoded(picture(0), "png"), "npy": buffer.getvalue()}])
    with pytest.raises(DataError, match="has no image with any label"):
        evaluate(digit_models[:1], [str(tmp_path / "m")], options=EvaluationOptions())
