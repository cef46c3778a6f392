"""Training on labels alone: prompts of the classes as captions (FLYP), and tar files with `cls`, in whatever place the
names of the classes lie."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file

from soupkit.errors import SoupkitError
from soupkit.evaluation import EvaluationOptions, open_tasks
from soupkit.evaluation.adapter import open_tokenizer
from soupkit.evaluation.run_evaluation import evaluate
from soupkit.training import train
from soupkit.training.data.batches import TrainingData
from soupkit.training.entry import TrainEntry
from tests.conftest import CONFIG, TINY_MODEL
from tests.training.runs import IN_PROCESS, WEIGHTS, clip_of_digits, settings

NAMES = tuple(open_tasks(["digits"])[0].classnames)
TEMPLATES = ("a photo of the number {c}.", "{c}", "somebody wrote {c}.")
Fields = dict[str, Any]


def write_digits(folder: Path, *, suffix: str = "cls", shards: int = 2, each: int = 40) -> Path:
    """Handwritten digits in tar files 0.tar, 1.tar, ... as ShardWriter of webdataset writes samples."""
    dataset = open_tasks(["digits:train"])[0].dataset
    folder.mkdir(parents=True)
    for shard in range(shards):
        with tarfile.open(folder / f"{shard}.tar", "w") as archive:
            for i in range(shard * each, (shard + 1) * each):
                sample = dataset.read(i)
                for name, data in (("png", sample.data), (suffix, str(sample.label).encode())):
                    member = tarfile.TarInfo(f"{i:06d}.{name}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    return folder


def write_names(folder: Path) -> None:
    (folder / "classnames.txt").write_text("\n".join(NAMES) + "\n")
    (folder / "zeroshot_classification_templates.txt").write_text("\n".join(TEMPLATES) + "\n")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in CLIP_benchmark's layout: the shards in `train`, the names above."""
    place = tmp_path_factory.mktemp("labels") / "digits"
    write_digits(place / "train")
    write_names(place)
    return place


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP that knows little of digits."""
    return clip_of_digits(tmp_path_factory.mktemp("flyp") / "clip", 1600)


def flyp(clip: Path, **fields: Any) -> Fields:
    usual = {"model": None, "init": str(clip), "loss": "clip", "ema": None, "patch_dropout": 0, "warmup": 0}
    return settings(**{**usual, **fields})


def test_flyp_trains_both_towers_on_prompts_and_a_better_clip_comes_out(clip: Path, tmp_path: Path) -> None:
    data = {"shards": "digits:train", "balanced": True}
    train(flyp(clip, data=data, batch_size=80, samples=3200, lr=1e-3), tmp_path / "tuned", options=IN_PROCESS)
    before, after = load_file(clip / WEIGHTS), load_file(tmp_path / "tuned" / WEIGHTS)
    assert before.keys() == after.keys() and not any("classification_head" in name for name in after)
    for tensor in ("visual.conv1.weight", "transformer.resblocks.0.mlp.c_fc.weight", "text_projection", "logit_scale"):
        assert not torch.equal(before[tensor], after[tensor]), tensor
    plain = open_clip.CLIP(**TINY_MODEL)
    plain.load_state_dict(after)  # open_clip opens it as it is
    options = EvaluationOptions(cache=tmp_path / "cache", device="cpu")
    one, other = evaluate([clip, tmp_path / "tuned"], ["digits"], options=options).scores
    assert other.value > one.value + 0.1


@pytest.mark.parametrize("loss", ["clip", "siglip"])
def test_an_image_is_trained_towards_a_prompt_of_its_class_in_a_template_that_the_seed_draws(
    shards: Path, loss: str
) -> None:
    run = TrainEntry.model_validate(settings(data={"shards": f"{shards}:train"}, loss=loss))
    tokenizer = open_tokenizer(CONFIG, (), "")
    prompts = {tuple(tokenizer([t.replace("{c}", name)])[0].tolist()): (i, j)
               for i, name in enumerate(NAMES) for j, t in enumerate(TEMPLATES)}  # fmt: skip
    data = TrainingData(run, CONFIG, tokenizer)
    labels = open_tasks([f"{shards}:train"])[0].dataset
    seen = {labels.read(i).data: labels.read(i).label for i in range(len(labels))}
    drawn = set()
    for position in range(80):
        _, target, damaged = data[position]
        label, template = prompts[tuple(target.tolist())]
        index = data._orders[0](position)
        assert label == labels.read(index).label == seen[labels.read(index).data] and not damaged
        drawn.add(template)
    assert drawn == {0, 1, 2}
    again = TrainingData(run, CONFIG, tokenizer)
    assert all(torch.equal(data[i][1], again[i][1]) for i in range(8))
    other = TrainingData(run.model_copy(update={"seed": 1}), CONFIG, tokenizer)
    assert not all(torch.equal(data[i][1], other[i][1]) for i in range(16))


def sources(shards: Path, place: Path) -> dict[str, Fields]:
    """The same shards as bare tar files, with their names in each of the places where they may lie."""
    for name in ("above", "beside", "file"):
        write_digits(place / name / "train" if name == "above" else place / name)
    write_names(place / "above")
    write_names(place / "beside")
    (place / "lists").mkdir()
    write_names(place / "lists")
    (place / "lists" / "classnames.txt").rename(place / "lists" / "ten.txt")
    return {
        "the layout's own": {"shards": str(shards / "train" / "{0..1}.tar")},
        "above": {"shards": str(place / "above" / "train" / "{0..1}.tar")},
        "beside, listed": {"shards": [str(place / "beside" / f"{i}.tar") for i in range(2)]},
        "a file": {"shards": str(place / "file" / "{0..1}.tar"), "class_names": str(place / "lists" / "ten.txt")},
    }


@pytest.mark.parametrize("loss", ["cross_entropy", "clip"])
def test_tar_files_with_labels_train_the_same_bytes_as_the_folder_that_they_lie_in(
    clip: Path, shards: Path, tmp_path: Path, loss: str
) -> None:
    def trained(name: str, data: Fields) -> bytes:
        train(
            flyp(clip, data={"balanced": True, **data}, loss=loss, samples=80, lr=1e-3), tmp_path / name,
            options=IN_PROCESS,
        )  # fmt: skip
        return (tmp_path / name / WEIGHTS).read_bytes()

    expected = trained("folder", {"shards": f"{shards}:train"})
    bare = sources(shards, tmp_path / "bare")
    if loss == "clip":  # there tar files have captions, unless it is said what their labels are called
        bare = {"a file": bare["a file"]}
    for i, (name, data) in enumerate(bare.items()):
        assert trained(f"run{i}", data) == expected, name
    if loss == "cross_entropy":
        config = json.loads((tmp_path / "run0" / "open_clip_config.json").read_text())
        assert config["class_names"] == list(NAMES)
        probed = trained("probe", {**bare["a file"], "share": 0.9}), load_file(tmp_path / "probe" / WEIGHTS)
        assert probed[1]["classification_head.weight"].shape[0] == 10


def test_labels_of_imagenet_have_open_clips_names(tmp_path: Path) -> None:
    from soupkit.training.data.sources import open_labelled

    write_digits(tmp_path / "in1k", shards=1)
    entry = TrainEntry.model_validate(
        settings(data={"shards": str(tmp_path / "in1k" / "0.tar"), "class_names": "imagenet-1k"})
    )
    task = open_labelled(entry.data[0])
    assert task.classnames == tuple(open_clip.IMAGENET_CLASSNAMES) and len(task.templates) == 80
    labels = [task.dataset.read(i).label for i in range(len(task.dataset))]
    assert labels == [open_tasks(["digits:train"])[0].dataset.read(i).label for i in range(40)]


def test_what_labels_cannot_be_trained_on_is_said_before_any_work(clip: Path, shards: Path, tmp_path: Path) -> None:
    bare = write_digits(tmp_path / "bare")
    captioned = write_digits(tmp_path / "captioned", suffix="txt")
    write_names(captioned)
    few = tmp_path / "few.txt"
    few.write_text("zero\none\n")
    cases: dict[str, tuple[Fields, str]] = {
        "no names": ({"shards": str(bare / "{0..1}.tar")}, "nothing names the classes of their labels"),
        "no such file": ({"shards": str(bare / "0.tar"), "class_names": "nowhere.txt"}, "nowhere.txt: is missing"),
        "a shard is missing": ({"shards": str(shards / "train" / "{0..2}.tar")}, r"2\.tar: is missing"),
        "captions": ({"shards": str(captioned / "0.tar")}, r"lacks \.cls"),
        "names of a task": ({"shards": f"{shards}:train", "class_names": str(few)}, "leave it out"),
    }
    for i, (name, (data, said)) in enumerate(cases.items()):
        with pytest.raises(SoupkitError, match=said) as caught:
            train(flyp(clip, data=data, loss="cross_entropy"), tmp_path / f"run{i}", options=IN_PROCESS)
        assert caught.value.hint and not (tmp_path / f"run{i}").exists(), name
        if name != "captions":  # which only reading the shards tells
            assert not list(tmp_path.glob(f"run{i}*")), name
    data = {"shards": str(bare / "0.tar"), "class_names": str(few)}
    with pytest.raises(SoupkitError, match=r"has the label [2-9], and 2 classes have names"):
        train(flyp(clip, data=data, loss="cross_entropy"), tmp_path / "run", options=IN_PROCESS)


def test_labels_are_read_once_and_held_as_numbers(shards: Path) -> None:
    from soupkit.training.data.sources import open_sources

    entry = TrainEntry.model_validate(
        settings(
            data={"shards": str(shards / "train" / "{0..1}.tar"), "balanced": True}, loss="cross_entropy", init="a"
        )
    )
    (source,) = open_sources(entry)
    assert source.labels is not None and source.labels() is source.labels()
    np.testing.assert_array_equal(
        source.labels(), [open_tasks(["digits:train"])[0].dataset.read(i).label for i in range(80)]
    )
