"""Data that would be scored wrongly in silence: labels by position, counts that do not hold, code in prompts."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import ImageFolder

from soupkit.errors import DataError
from soupkit.evaluation import open_tasks
from soupkit.evaluation.probe import Probe
from soupkit.evaluation.run_evaluation import evaluate
from soupkit.evaluation.task import Task
from tests.evaluation.test_hostile_data import PICTURE, npy, sample, shard_of

Write = Callable[..., Path]
_TEMPLATES = "zeroshot_classification_templates.txt"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write files below a folder of their own: their names, and what they hold."""

    def of(contents: dict[str, str | bytes], root: str = "data") -> Path:
        for name, content in contents.items():
            path = tmp_path / root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path / root

    return of


def opened(path: Path) -> Task:
    (task,) = open_tasks([str(path)])
    return task


def names_of_images(task: Task) -> dict[str, str]:
    """What each image is said to show."""
    samples = [task.dataset.read(i) for i in range(len(task.dataset))]
    return {s.key: task.classnames[s.label] for s in samples}


def refusal(path: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        opened(path).dataset.read(0)
    assert caught.value.where and caught.value.hint
    return caught.value


# Folders and class names: by name or by number, never by position without a word


@pytest.mark.parametrize("lines", ["dog\nhot dog\ncat", "bird\ncat\ndog\nfish\nhot dog", "hot_dog\ncat\ndog"])
def test_a_folder_is_the_class_that_it_is_called(write: Write, lines: str) -> None:
    images = {f"{name}/x.png": PICTURE for name in ("cat", "dog", "hot_dog")}
    task = opened(write({**images, "classnames.txt": lines}))
    shown = {key: name.replace("_", " ") for key, name in names_of_images(task).items()}
    assert shown == {"cat/x.png": "cat", "dog/x.png": "dog", "hot_dog/x.png": "hot dog"}
    assert task.classnames == tuple(lines.split("\n"))


def test_a_folder_that_is_called_a_number_is_that_class(write: Write) -> None:
    task = opened(write({"0/x.png": PICTURE, "3/x.png": PICTURE, "classnames.txt": "a\nb\nc\nd"}))
    assert names_of_images(task) == {"0/x.png": "a", "3/x.png": "d"}


@pytest.mark.parametrize(
    ("folders", "lines", "says"),
    [
        (("1", "2"), "a\nb", "there is a folder '2'"),  # numbers that count from 1
        (("0", "1"), "1\n0", "is the name of class 1"),
        (("cat", "wolf"), "cat\ndog", "none of them 'wolf'"),
        (("n01440764", "n02102040"), "tench\ndog\ncat", "none of them 'n01440764'"),
        (("cat", "dog"), "cat\ndog\ncat", "two classes called 'cat'"),
        (("hot dog", "hot_dog"), "cat\nhot dog\ndog", "one class for two folders"),
    ],
)
def test_folders_that_are_not_known_to_be_classes_are_refused(
    write: Write, folders: tuple[str, ...], lines: str, says: str
) -> None:
    assert says in str(refusal(write({**{f"{f}/x.png": PICTURE for f in folders}, "classnames.txt": lines})))


def test_what_is_known_by_the_order_alone_is_said(write: Write) -> None:
    images = {f"{name}/x.png": PICTURE for name in ("n01440764", "n02102040")}
    task = opened(write({**images, "classnames.txt": "tench\nspringer"}))
    assert names_of_images(task) == {"n01440764/x.png": "tench", "n02102040/x.png": "springer"}
    assert any("'n01440764' is 'tench'" in note and "order" in note for note in task.notes)


def test_a_probe_is_not_fitted_to_labels_of_another_split(write: Write, tiny_clips: list[Path]) -> None:
    names = [("train", n) for n in ("cat", "cow", "dog")] + [("test", n) for n in ("cat", "dog")]
    data = write({f"{split}/{name}/x.png": PICTURE for split, name in names})
    with pytest.raises(DataError, match=r"other classes than the split test.*'cow'"):
        evaluate([str(tiny_clips[0])], [str(data)], probe=Probe())
    (data / "classnames.txt").write_text("cat\ncow\ndog")
    both = [open_tasks([f"{data}:{split}"])[0] for split in ("train", "test")]
    assert both[0].classnames == both[1].classnames
    assert names_of_images(both[1]) == {"cat/x.png": "cat", "dog/x.png": "dog"}


@pytest.mark.parametrize("folders", [("Train", "Test"), ("training", "testing"), ("dev",), ("Val", "cat")])
def test_splits_are_no_classes(write: Write, folders: tuple[str, ...]) -> None:
    error = refusal(write({f"{split}/{name}/x.png": PICTURE for split in folders for name in ("cat", "dog")}))
    assert "has no split 'test'" in error.what and folders[0] in error.hint


def test_one_class_alone_is_said(write: Write) -> None:
    task = opened(write({"images/cat/x.png": PICTURE, "images/dog/x.png": PICTURE}))
    assert any("one class alone, 'images'" in note for note in task.notes)


def test_files_that_are_left_out_are_said(write: Write) -> None:
    task = opened(write({"cat/x.png": PICTURE, "cat/y.avif": PICTURE, "dog/.DS_Store": b"", "loose.png": PICTURE}))
    assert len(task.dataset) == 1
    assert any("2 files are left out, such as loose.png" in note for note in task.notes)


def test_links_to_folders_are_followed_as_torchvision_does_and_end(write: Write, tmp_path: Path) -> None:
    data = write({"cat/x.png": PICTURE, "dog/a/x.png": PICTURE, "dog/x.pgm": PICTURE})
    other = write({"y.png": PICTURE}, "elsewhere")
    (data / "cat" / "more").symlink_to(other)
    theirs = {os.path.relpath(path, data): label for path, label in ImageFolder(str(data)).samples}
    task = opened(data)
    samples = [task.dataset.read(i) for i in range(len(task.dataset))]
    assert {s.key: s.label for s in samples} == theirs and len(theirs) == 4
    (data / "dog" / "a" / "round").symlink_to(data / "dog")
    assert len(opened(data).dataset) == 4


# Class names and templates that are none


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("n01440764\nn02102040", "WordNet id"),
        ("tench\nn02102040 springer", "WordNet id"),
        ("0 tench\n1 springer", "the number of its line"),
        ("1. tench\n2. springer", "the number of its line"),
        ("0,tench\n1,tench", "the number of its line"),
        ("{0: 'tench, Tinca tinca',\n 1: 'springer'}", "is code"),
        ("0: 'tench',\n1: 'springer',", "is code"),
        ('["tench", "springer"]', "is code"),
        ("names = ['tench']", "is code"),
        ("{{{{'" + "(" * 900, ""),
    ],
)
def test_lines_that_are_no_names_are_refused(write: Write, lines: str, says: str) -> None:
    data = write({"test/0.tar": shard_of(*sample("a")), "classnames.txt": lines, _TEMPLATES: "{c}"})
    if not says:  # what no parser reads is a name like any other
        assert opened(data).classnames == (lines,)
        return
    assert says in refusal(data).what


@pytest.mark.parametrize(
    "lines",
    [
        "lambda phage\nrho",
        "it's\nrock 'n' roll",
        "1 apple\n2 apples",
        "1.5 mm\n2.5 cm",
        "3 cats\n4 dogs",
        "0\n1",
        "c++ {a}\nb",
    ],
)
def test_odd_names_are_names(write: Write, lines: str) -> None:
    data = write({"test/0.tar": shard_of(*sample("a")), "classnames.txt": lines, _TEMPLATES: "{c}"})
    assert opened(data).classnames == tuple(lines.split("\n"))


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ('["a photo of {c}.", "a {c}"]', "is code"),
        ("[lambda c: f'a photo of {c}.',", "is code"),
        ("'a photo of a {c}.'.format(c)", "is code"),
        ("templates = ['a {c}']", "is code"),
        ("lambda c: f'a photo of {c}", "is code"),
        ("a photo of {{c}}", "braces"),
        ("a {} {c}", "braces"),
        ("a {c} in {place}", "braces"),
    ],
)
def test_templates_that_are_none_are_refused(write: Write, template: str, says: str) -> None:
    data = write({"test/0.tar": shard_of(*sample("a")), "classnames.txt": "a", _TEMPLATES: f"{template}\n"})
    assert says in refusal(data).what


def test_a_line_ends_where_a_file_s_lines_end(write: Write) -> None:
    lines = "one\u2028half\r\ntwo\x0ctimes\nthree\x85\n"
    data = write({"test/0.tar": shard_of(*sample("a")), "classnames.txt": lines, _TEMPLATES: "{c}"})
    with (data / "classnames.txt").open() as file:
        assert opened(data).classnames == tuple(line.strip() for line in file)
    captions = [("a.png", PICTURE), ("a.txt", "one\u2028half\ntwo\x0ctimes\r\n".encode())]
    told = write({"test/0.tar": shard_of(*captions), "dataset_type.txt": "retrieval"}, "captions")
    assert opened(told).dataset.read(0).captions == ("one\u2028half", "two\x0ctimes")


@pytest.mark.parametrize(("lines", "says"), [("crane\ntrain\nCrane", "classes 0, 2"), ("x\nx", "classes 0, 1")])
def test_classes_of_one_name_are_said(write: Write, lines: str, says: str) -> None:
    data = write({"test/0.tar": shard_of(*sample("a")), "classnames.txt": lines, _TEMPLATES: "{c}"})
    assert any(says in note for note in opened(data).notes)


# Counts


def shards(write: Write, names: dict[str, int], **beside: str) -> Path:
    """A split of shards with so many samples each."""
    tars = {f"test/{name}": shard_of(*(m for i in range(n) for m in sample(f"s{i}"))) for name, n in names.items()}
    texts = {f"test/{name.replace('__', '.')}": text for name, text in beside.items()}
    return write({**tars, **texts, "classnames.txt": "a", _TEMPLATES: "{c}"})


@pytest.mark.parametrize("stated", ["1", "2\n3"])
def test_a_shard_that_nobody_counts_is_not_left_out(write: Write, stated: str) -> None:
    assert "nshards.txt" in str(refusal(shards(write, {"0.tar": 1, "1.tar": 1}, nshards__txt=stated)).where)


def test_shards_that_are_missing_between_others_are_said(write: Write) -> None:
    (note,) = opened(shards(write, {"00003.tar": 1, "00004.tar": 1, "00007.tar": 1})).notes[:1]
    assert "lacks 2 of the shards 3 to 7, the first of them number 5" in note


def test_two_shards_of_one_number_are_refused(write: Write) -> None:
    assert "have one number" in refusal(shards(write, {"0.tar": 1, "00000.tar": 1})).what


@pytest.mark.parametrize("file", ["sizes__json", "00000_stats__json"])
def test_a_count_beside_a_shard_is_compared(write: Write, file: str) -> None:
    key = "00000.tar" if file.startswith("sizes") else "successes"
    data = shards(write, {"00000.tar": 2}, **{file: json.dumps({key: 2, "count": 9, "other.tar": 7})})
    assert len(opened(data).dataset) == 2
    (data / "test" / file.replace("__", ".")).write_text(json.dumps({key: 5}))
    with pytest.raises(DataError, match=r"holds 2 samples, and .* says that there are 5"):
        len(opened(data).dataset)
    (data / "test" / file.replace("__", ".")).write_text("[" * 100_000)
    assert len(opened(data).dataset) == 2


# Tables and flags


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("path,label,label\nx.png,a,b\n", "two columns 'label'"),
        ("path,label\nx.png,0\nx.png,1\n", "is the name of class 1"),
    ],
)
def test_a_table_of_two_meanings_is_refused(write: Write, table: str, says: str) -> None:
    assert says in str(refusal(write({"x.png": PICTURE, "x.csv": table, "classnames.txt": "1\n0"}) / "x.csv"))


def test_what_a_table_says_twice_is_said(write: Write) -> None:
    table = "path,label,caption,filepath\nx.png,a,what,x.png\n./x.png,b,what,x.png\n"
    notes = " ".join(opened(write({"x.png": PICTURE, "x.csv": table}) / "x.csv").notes)
    assert "1 images have several labels, such as x.png" in notes
    assert "'label' is read, and 'caption' is not" in notes and "'path' is read, and 'filepath' is not" in notes


def test_rows_of_a_split_are_found_however_it_is_written(write: Write) -> None:
    table = "path,label,split\nx.png,a,Test\nx.png,b, test \nx.png,c,train\n"
    assert opened(write({"x.png": PICTURE, "x.csv": table}) / "x.csv").classnames == ("a", "b")


def test_one_image_by_two_paths_is_one(write: Write) -> None:
    task = opened(write({"x.png": PICTURE, "x.csv": "path,caption\nx.png,one\n./x.png,two\n"}) / "x.csv")
    assert len(task.dataset) == 1 and task.dataset.read(0).captions == ("one", "two")


@pytest.mark.parametrize("flags", [[np.nan, 1.0], [0.3, 1.0], [1, 2]])
def test_numbers_that_are_no_flags_are_refused(write: Write, flags: list[float]) -> None:
    members = [("a.png", PICTURE), ("a.npy", npy(np.array(flags)))]
    files = {"test/0.tar": shard_of(*members), "dataset_type.txt": "multilabel"}
    assert "which is no flag" in refusal(write({**files, "classnames.txt": "a\nb", _TEMPLATES: "{c}"})).what
