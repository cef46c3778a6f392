"""The pixel cache: open_clip's pixels, made once, resumed, and never trusted when they are not whole."""

import gzip
import io
import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2

from soupkit.errors import DataError, StorageError
from soupkit.evaluation import pixel_cache
from soupkit.evaluation.content_digest import digest_of_files
from soupkit.evaluation.image_pass import on_disk
from soupkit.evaluation.pixel_cache import open_pixels
from soupkit.evaluation.pixels import Pixels
from soupkit.evaluation.task import Task
from soupkit.evaluation.tasks import open_tasks
from soupkit.evaluation.transform import open_transform
from tests.evaluation.conftest import encoded, picture, write_lists, write_shards
from tests.evaluation.writer import lines_of, start_writer

PREPROCESS = {"size": 24, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25), "interpolation": "bicubic"}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_cache, "BLOCK", 8)


def opened(task: Task, cache: Path, **options: object) -> Pixels:
    transform = open_transform({**PREPROCESS, "resize_mode": "shortest"})
    return open_pixels(task, transform, cache, digest_of_files(task.dataset.files(), None, "x"), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pixels_are_those_of_open_clips_transform(colours: Path, tmp_path: Path, mode: str, interpolation: str) -> None:
    config = {**PREPROCESS, "resize_mode": mode, "interpolation": interpolation, "fill_color": 7}
    reference = image_transform_v2(PreprocessCfg(**config), is_train=False)
    (task,) = open_tasks([str(colours)])
    transform = open_transform(config)
    pixels = open_pixels(task, transform, tmp_path / "cache", "any")
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (transform.mean, transform.std))
    for i in range(30):
        image = PIL.Image.open(io.BytesIO(task.dataset.read(i).data)).convert("RGB")
        ours = torch.tensor(pixels.take(np.array([i]))[0]).permute(2, 0, 1).float().div_(255).sub_(mean).div_(std)
        assert torch.equal(ours, reference(image))
    assert pixels.labels.tolist() == [i % 6 for i in range(30)]


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "I;16", "1"])
def test_images_of_every_mode_are_rgb_before_they_are_resized(tmp_path: Path, mode: str) -> None:
    image = (
        PIL.Image.fromarray((np.arange(1200) * 50 % 65536).astype(np.uint16).reshape(30, 40))
        if mode == "I;16"
        else picture(1).convert(mode)
    )
    place = tmp_path / "folder" / "a"
    place.mkdir(parents=True)
    path = place / ("x.jpg" if mode == "CMYK" else "x.png")
    image.save(path)
    (task,) = open_tasks([str(tmp_path / "folder")])
    pixels = opened(task, tmp_path / "cache")
    reference = image_transform_v2(PreprocessCfg(**{**PREPROCESS, "mean": (0, 0, 0), "std": (1, 1, 1)}), is_train=False)
    expected = reference(PIL.Image.open(path).convert("RGB")).permute(1, 2, 0).mul(255).round().to(torch.uint8)
    np.testing.assert_array_equal(pixels.images[0], expected.numpy())


def test_a_second_opening_decodes_nothing(colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (task,) = open_tasks([str(colours)])
    first = opened(task, tmp_path / "cache").images.copy()
    monkeypatch.setattr(pixel_cache, "decode", None)
    np.testing.assert_array_equal(opened(task, tmp_path / "cache").images, first)


def damage_length(path: Path) -> None:
    os.truncate(path / "pixels.u8", 1000)


def damage_samples(path: Path) -> None:
    text = (path / "samples.jsonl").read_text().splitlines(keepends=True)
    (path / "samples.jsonl").write_text("".join(text[:-1]))


def damage_json(path: Path) -> None:
    with (path / "samples.jsonl").open("a") as file:
        file.write("{")


@pytest.mark.parametrize("damage", [damage_length, damage_samples, damage_json])
def test_a_cache_that_is_not_whole_is_made_again(colours: Path, tmp_path: Path, damage: object) -> None:
    (task,) = open_tasks([str(colours)])
    pixels = opened(task, tmp_path / "cache")
    whole = pixels.images.copy()
    damage(pixels.path)  # type: ignore[operator]
    np.testing.assert_array_equal(opened(task, tmp_path / "cache").images, whole)


def test_changed_pixels_are_found_when_they_are_read_and_made_again(colours: Path, tmp_path: Path) -> None:
    (task,) = open_tasks([str(colours)])
    pixels = opened(task, tmp_path / "cache")
    whole = pixels.images.copy()
    with (pixels.path / "pixels.u8").open("r+b") as file:
        file.seek(24 * 24 * 3 * 20)
        file.write(b"\x99" * 10)
    again = opened(task, tmp_path / "cache")
    again.take(np.arange(8))
    with pytest.raises(StorageError, match="damaged at image 16"):
        again.take(np.arange(30))
    np.testing.assert_array_equal(opened(task, tmp_path / "cache").take(np.arange(30)), whole)


def test_a_cache_that_is_cut_while_it_is_read_is_an_error_and_no_signal(colours: Path, tmp_path: Path) -> None:
    (task,) = open_tasks([str(colours)])
    pixels = opened(task, tmp_path / "cache")
    whole = pixels.images.copy()
    pixels.take(np.arange(8))
    damage_length(pixels.path)
    for rows in (np.arange(8), np.arange(8, 16), np.array([29, 3])):  # read before, next, in no order
        with pytest.raises(StorageError, match="cut short, and was removed") as caught:
            pixels.take(rows)
    assert str(pixels.path) in str(caught.value.where) and "run again" in caught.value.hint
    np.testing.assert_array_equal(opened(task, tmp_path / "cache").take(np.arange(30)), whole)


def test_other_data_in_the_same_place_get_another_cache(colours: Path, tmp_path: Path) -> None:
    first = opened(open_tasks([str(colours)])[0], tmp_path / "cache")
    samples = [{"png": encoded(picture(n + 1), "png"), "cls": b"0"} for n in range(30)]
    other = write_shards(tmp_path / "other", "test", samples, shards=2)
    for shard in ("0.tar", "1.tar"):
        (other / "test" / shard).replace(colours / "test" / shard)
    second = opened(open_tasks([str(colours)])[0], tmp_path / "cache")
    assert second.path != first.path and second.labels.tolist() == [0] * 30


def test_an_interrupted_cache_goes_on_where_it_was(colours: Path, tmp_path: Path) -> None:
    (task,) = open_tasks([str(colours)])
    whole = opened(task, tmp_path / "whole").images.copy()
    read, seen = task.dataset.read, []

    class Stopping:
        place, files = task.dataset.place, task.dataset.files
        stop = 20

        def __len__(self) -> int:
            return 30

        def read(self, index: int) -> object:
            seen.append(index)
            if index == self.stop:
                raise KeyboardInterrupt
            return read(index)

    stopping = Stopping()
    broken = Task(task.name, task.split, task.kind, task.metric, stopping, task.classnames, task.templates)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        opened(broken, tmp_path / "cache")
    stopping.stop = -1
    seen.clear()
    np.testing.assert_array_equal(opened(broken, tmp_path / "cache").images, whole)
    assert min(seen) in (8, 16) and len(seen) < 30


@pytest.fixture
def large_pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "large"
    write_lists(folder, ["a"], ["{c}"])
    data = [encoded(picture(n, (900, 900)), "jpg") for n in range(4)]
    return write_shards(folder, "test", [{"jpg": data[n % 4], "cls": b"0"} for n in range(120)])


def test_a_killed_writer_leaves_what_the_next_one_finishes(large_pictures: Path, tmp_path: Path) -> None:
    _, whole = start_writer(large_pictures, tmp_path / "whole")
    expected = lines_of(whole)[-1]
    writer, out = start_writer(large_pictures, tmp_path / "cache")
    for _ in range(42):
        out.recv()
    writer.kill()
    writer.join(30)
    assert [p.suffix for p in (tmp_path / "cache" / "pixels").iterdir()] == [".partial"]
    _, again = start_writer(large_pictures, tmp_path / "cache")
    lines = lines_of(again)
    assert lines[-1] == expected and expected.startswith("sum")
    assert lines.count("image") <= 121 - 32  # one line stands for all that was there


def test_of_two_writers_one_makes_the_cache_and_the_other_waits(large_pictures: Path, tmp_path: Path) -> None:
    writers = [start_writer(large_pictures, tmp_path / "cache") for _ in range(2)]
    outputs = [lines_of(out) for _, out in writers]  # a pipe holds all the lines of a writer that is not read yet
    assert outputs[0][-1] == outputs[1][-1] and outputs[0][-1].startswith("sum")
    assert sorted(o.count("start") for o in outputs) == [0, 1]


def test_a_corrupt_image_is_refused_by_name_or_left_out_by_choice(tmp_path: Path) -> None:
    good = encoded(picture(0), "jpg")
    samples = [{"jpg": good[: len(good) // 2] if n == 3 else b"" if n == 5 else good, "cls": b"0"} for n in range(10)]
    write_lists(tmp_path / "data", ["a"], ["{c}"])
    (task,) = open_tasks([str(write_shards(tmp_path / "data", "test", samples))])
    with pytest.raises(DataError, match=r"2 images of 10 that cannot be decoded: s0000003: .*; s0000005"):
        opened(task, tmp_path / "cache")
    assert opened(task, tmp_path / "cache", skip_corrupt=True).rows.tolist() == [0, 1, 2, 4, 6, 7, 8, 9]


@pytest.mark.parametrize(
    ("label", "message"), [(b"6", "label 6, which is out of range: the task has 6"), (b"-1", "label -1")]
)
def test_a_label_out_of_range_is_named(tmp_path: Path, label: bytes, message: str) -> None:
    write_lists(tmp_path / "data", list("abcdef"), ["{c}"])
    samples = [{"png": encoded(picture(0), "png"), "cls": b"5"}, {"png": encoded(picture(0), "png"), "cls": label}]
    (task,) = open_tasks([str(write_shards(tmp_path / "data", "test", samples))])
    with pytest.raises(DataError, match=message) as caught:
        opened(task, tmp_path / "cache")
    assert "s0000001" in caught.value.where


def test_a_label_that_is_no_number_is_named(tmp_path: Path) -> None:
    write_lists(tmp_path / "data", ["a"], ["{c}"])
    (task,) = open_tasks(
        [str(write_shards(tmp_path / "data", "test", [{"png": encoded(picture(0), "png"), "cls": b"cat"}]))]
    )
    with pytest.raises(DataError, match=r"'cat' in \.cls, which is not the number of a class"):
        opened(task, tmp_path / "cache")


def test_flags_that_do_not_fit_the_classes_are_named(tmp_path: Path) -> None:
    samples = []
    for flags in ([1, 0, 1], [0, 1]):
        buffer = io.BytesIO()
        np.save(buffer, np.array(flags))
        samples.append({"png": encoded(picture(0), "png"), "npy": buffer.getvalue()})
    write_lists(tmp_path / "data", list("abc"), ["{c}"], "multilabel")
    (task,) = open_tasks([str(write_shards(tmp_path / "data", "test", samples))])
    with pytest.raises(DataError, match="has 2 flags, and the task 3 class names") as caught:
        opened(task, tmp_path / "cache")
    assert "s0000001" in caught.value.where


def test_a_task_without_images_is_an_error(tmp_path: Path) -> None:
    write_lists(tmp_path / "data", ["a"], ["{c}"])
    (task,) = open_tasks([str(write_shards(tmp_path / "data", "test", []))])
    with pytest.raises(DataError, match="no images"):
        opened(task, tmp_path / "cache")


def test_no_room_is_found_out_before_anything_is_decoded(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (task,) = open_tasks([str(colours)])
    monkeypatch.setattr(pixel_cache, "decode", None)
    with room_for(10_000), pytest.raises(StorageError, match="no room for the pixel cache"):
        opened(task, tmp_path / "cache")


def test_no_room_to_unpack_a_compressed_shard_is_an_error(tmp_path: Path) -> None:
    write_lists(tmp_path / "data", ["a"], ["{c}"])
    folder = write_shards(tmp_path / "data", "test", [{"png": encoded(picture(0), "png"), "cls": b"0"}])
    shard = folder / "test" / "0.tar"
    shard.write_bytes(gzip.compress(shard.read_bytes()))
    (task,) = open_tasks([str(folder)])
    with room_for(1000), pytest.raises(StorageError, match=r"no room to unpack .*0\.tar: File too large"):
        len(task.dataset)


def test_no_room_for_features_is_an_error_and_no_crash() -> None:
    with room_for(10_000), pytest.raises(StorageError, match="no room for features"):
        on_disk(100, 100)


@contextmanager
def room_for(nbytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond `nbytes`: a full disk for those that are larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_limit_takes_images_spread_over_the_dataset(colours: Path, tmp_path: Path) -> None:
    (task,) = open_tasks([str(colours)])
    pixels = opened(task, tmp_path / "cache", limit=4)
    assert pixels.keys == ("s0000000", "s0000010", "s0000019", "s0000029")


def test_a_dataset_that_changes_while_it_is_read_is_refused(colours: Path) -> None:
    files = open_tasks([str(colours)])[0].dataset.files()

    class Touching:
        def start(self, *_: object) -> None: ...
        def note(self, _: str) -> None: ...
        def finish(self) -> None:
            os.utime(files[0], ns=(1, time.time_ns()))

        def advance(self, _: int) -> None: ...

    with pytest.raises(DataError, match="changed while"):
        digest_of_files(files, None, "colours", Touching())
