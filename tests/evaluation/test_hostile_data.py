"""Data that are damaged, or say more than is true, are named: no crash, no hang, no number from a part of them."""

import gzip
import io
import os
import struct
import tarfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from soupkit.errors import DataError
from soupkit.evaluation import open_tasks
from soupkit.evaluation.content_digest import digest_of_files
from soupkit.evaluation.npy import read_integers, read_vector
from soupkit.evaluation.pixel_cache import open_pixels
from soupkit.evaluation.pixels import Pixels
from soupkit.evaluation.task import Task
from soupkit.evaluation.transform import MOST_PIXELS, decode, open_transform
from tests.evaluation.conftest import encoded, picture, write_lists, write_shards

PICTURE = encoded(picture(0), "png")


@contextmanager
def at_most(nbytes: int) -> Iterator[None]:
    """What is done within may allocate so many bytes."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < nbytes
    finally:
        tracemalloc.stop()


def shard_of(*members: tuple[str, bytes]) -> bytes:
    """A tar of members in the order that is given."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def sample(key: str, label: bytes = b"0") -> list[tuple[str, bytes]]:
    return [(f"{key}.png", PICTURE), (f"{key}.cls", label)]


@pytest.fixture
def split(tmp_path: Path) -> Callable[..., Path]:
    """A folder in the WebDataset layout whose one shard holds these bytes."""

    def write(data: bytes, name: str = "0.tar", nshards: str | None = "1") -> Path:
        write_lists(tmp_path / "data", ["a", "b"], ["{c}"])
        (tmp_path / "data" / "test").mkdir(exist_ok=True)
        (tmp_path / "data" / "test" / name).write_bytes(data)
        if nshards is not None:
            (tmp_path / "data" / "test" / "nshards.txt").write_text(nshards)
        return tmp_path / "data"

    return write


def opened(folder: Path, cache: Path, **options: object) -> tuple[Task, Pixels]:
    (task,) = open_tasks([str(folder)])
    content = digest_of_files(task.dataset.files(), None, "x")
    return task, open_pixels(task, open_transform({"size": 8}), cache, content, **options)  # type: ignore[arg-type]


def refusal(folder: Path, cache: Path) -> DataError:
    """The error that opening a folder's pixels ends with, which says where and what to do."""
    with pytest.raises(DataError) as caught:
        opened(folder, cache)
    assert caught.value.where and caught.value.hint
    return caught.value


# Shards


def test_a_tar_that_was_cut_between_samples_is_damaged(split: Callable[..., Path], tmp_path: Path) -> None:
    whole = shard_of(*sample("a"), *sample("b"), *sample("c"))
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        cuts = [member.offset for member in archive][1:]
    for cut in cuts:
        error = refusal(split(whole[:cut]), tmp_path / "cache")
        assert "without the mark of a whole tar" in error.what and str(cut) in error.what


def test_a_header_that_is_none_is_not_taken_for_the_end(split: Callable[..., Path], tmp_path: Path) -> None:
    data = bytearray(shard_of(*sample("a"), *sample("b")))
    with tarfile.open(fileobj=io.BytesIO(bytes(data))) as archive:
        third = list(archive)[2].offset
    data[third : third + 8] = b"\xff" * 8
    assert "whole tar" in refusal(split(bytes(data)), tmp_path / "cache").what


def test_two_tars_in_one_file_are_not_read_as_the_first(split: Callable[..., Path], tmp_path: Path) -> None:
    joined = shard_of(*sample("a")) + shard_of(*sample("b"))
    assert "holds more after 2 files" in refusal(split(joined), tmp_path / "cache").what


def test_a_key_that_comes_again_is_another_sample_as_for_webdataset(split: Callable[..., Path], tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    folder = split(shard_of(*sample("a"), *sample("b", b"1"), *sample("a", b"1")))
    theirs = webdataset.WebDataset(str(folder / "test" / "0.tar"), shardshuffle=False, empty_check=False)
    _, pixels = opened(folder, tmp_path / "cache")
    assert pixels.labels.tolist() == [int(s["cls"]) for s in theirs] == [0, 1, 1]


def test_a_file_that_is_there_twice_is_refused(split: Callable[..., Path], tmp_path: Path) -> None:
    error = refusal(split(shard_of(("a.png", PICTURE), ("a.png", PICTURE), ("a.cls", b"0"))), tmp_path / "cache")
    assert "a.png twice" in error.what


def test_of_two_samples_of_one_key_the_corrupt_one_alone_is_left_out(
    split: Callable[..., Path], tmp_path: Path
) -> None:
    folder = split(shard_of(*sample("a"), ("b.png", b"no image"), ("b.cls", b"0"), *sample("b", b"1")))
    _, pixels = opened(folder, tmp_path / "cache", skip_corrupt=True)
    assert pixels.rows.tolist() == [0, 2] and pixels.labels[pixels.rows].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([("a.b.png", PICTURE), ("a.b.cls", b"0")], "has .b.png, .b.cls and lacks an image and .cls"),
        ([("a.png", PICTURE), ("a.txt", b"x")], "has .png, .txt and lacks .cls"),
        ([("a.gif", PICTURE), ("a.cls", b"0")], "has .gif, .cls and lacks an image"),
        (sample("a", b"cat"), "has 'cat' in .cls"),
        (sample("a", b"1" * 31), "which is not the number of a class"),
        (sample("a", "²".encode()), "which is not the number of a class"),
        (sample("a", b"999999999999"), "label 999999999999, which is out of range"),
        (sample("a", b"1" * 100_000), "which is not the number of a class"),
    ],
)
def test_a_sample_that_is_not_whole_says_what_was_found(
    split: Callable[..., Path], tmp_path: Path, members: list[tuple[str, bytes]], says: str
) -> None:
    error = refusal(split(shard_of(*members)), tmp_path / "cache")
    assert says in error.what and "a" in error.where and len(error.what) < 300


def test_a_dot_in_a_key_is_explained(split: Callable[..., Path], tmp_path: Path) -> None:
    assert "first dot" in refusal(split(shard_of(*sample("a.b"))), tmp_path / "cache").hint


def test_damaged_compression_is_an_error(split: Callable[..., Path], tmp_path: Path) -> None:
    packed = gzip.compress(shard_of(*sample("a")))
    for n, damaged in enumerate((packed[:-9], packed[:30] + b"\xff" * 20 + packed[50:], packed[:-8] + bytes(8))):
        assert "is damaged" in refusal(split(damaged), tmp_path / f"cache{n}").what


@pytest.mark.parametrize("stated", ["1000000000000", "²", "0", "-1", "1.0", "9" * 5000])
def test_a_number_of_shards_that_cannot_be_is_refused(split: Callable[..., Path], stated: str) -> None:
    with pytest.raises(DataError, match="should be the number of shards"):
        open_tasks([str(split(shard_of(*sample("a")), nshards=stated))])


def test_a_shard_that_is_not_there_is_named_before_a_million_are_looked_for(split: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match=r"1\.tar: is missing"):
        open_tasks([str(split(shard_of(*sample("a")), nshards="1000000"))])


def test_shards_without_a_count_are_read_in_the_order_of_their_numbers(
    split: Callable[..., Path], tmp_path: Path
) -> None:
    for number in (2, 10, 1):
        folder = split(shard_of(*sample(f"s{number}")), name=f"{number:05d}.tar", nshards=None)
    _, pixels = opened(folder, tmp_path / "cache")
    assert pixels.keys == ("s1", "s2", "s10")


def test_a_count_beside_shards_of_other_names_says_how_to_go_on(split: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match=r"remove nshards\.txt"):
        open_tasks([str(split(shard_of(*sample("a")), name="00000.tar"))])


@pytest.mark.parametrize("name", ["test/0.tar", "classnames.txt"])
def test_a_pipe_is_refused_and_not_waited_for(split: Callable[..., Path], tmp_path: Path, name: str) -> None:
    folder = split(shard_of(*sample("a")))
    (folder / name).unlink()
    os.mkfifo(folder / name)
    caught: list[BaseException] = []

    def work() -> None:
        try:
            opened(folder, tmp_path / "cache")
        except DataError as error:
            caught.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(20)
    assert caught and "no regular file" in str(caught[0])


def test_what_a_header_claims_is_not_allocated(split: Callable[..., Path], tmp_path: Path) -> None:
    data = shard_of(*sample("a"))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.getmembers()
        end = archive.offset
    member = tarfile.TarInfo("b.png")
    member.size = 1 << 40
    folder = split(data[:end] + member.tobuf(tarfile.GNU_FORMAT) + data[end:])
    with at_most(50 << 20):
        assert "ends inside 'b.png'" in refusal(folder, tmp_path / "cache").what


# Vectors in numpy's format


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def claiming(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<i8", "fortran_order": False, "shape": shape})
    return buffer.getvalue() + bytes(16)


@pytest.mark.parametrize("dtype", ["bool", "u1", "<i4", ">i8", "<f4", "<f8"])
def test_numbers_are_read_as_numpy_reads_them(dtype: str) -> None:
    array = np.array([0, 1, 3, 200], dtype)
    np.testing.assert_array_equal(read_vector(npy(array)), array)
    assert read_integers(npy(array)) == tuple(int(x) for x in array)


@pytest.mark.parametrize(
    "data",
    [
        npy(np.array(["text"])),
        npy(np.array([b"bytes"])),
        npy(np.array(["2020-01-01"], "datetime64[D]")),
        npy(np.zeros(2, [("a", "i4"), ("b", "f4")])),
        npy(np.array([{}], object)),
        npy(np.array([1j])),
        npy(np.zeros(2, "f8"))[:-1],
        npy(np.zeros(2, "f8")) + b"x",
        claiming((10**12,)),
        claiming((2**40, 2**40)),
        claiming((-1,)),
        b"",
        b"\x93NUMPY\x01\x00\xff\xff",
        b"no array",
        b"\x93NUMPY\x01\x00\x10\x00{'descr': (((\n    ",
        b"\x93NUMPY\x01\x00" + (9000).to_bytes(2, "little") + b"(" * 9000,
        b"\x93NUMPY\x01\x00\x10\x00{'descr': 'zz'}\n",
    ],
)
def test_what_are_no_numbers_is_refused_before_it_is_allocated(data: bytes) -> None:
    with at_most(1 << 22), pytest.raises(ValueError, match=r".+"):
        read_vector(data)


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf, 1e300])
def test_a_group_is_a_whole_number(value: float) -> None:
    with pytest.raises(ValueError, match="not whole"):
        read_integers(npy(np.array([value])))


# Images


def header_of_png(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        import zlib

        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(1, MOST_PIXELS + 1), (20_000, 20_000), (2**31 - 1, 2**31 - 1)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_of_too_many_pixels_is_corrupt_before_it_is_decoded(size: tuple[int, int]) -> None:
    with pytest.raises(OSError, match="pixels"):
        decode(header_of_png(*size))


def test_a_strip_is_one_corrupt_image_and_takes_no_memory(split: Callable[..., Path], tmp_path: Path) -> None:
    buffer = io.BytesIO()
    PIL.Image.new("L", (1, 10_000_000)).save(buffer, "PNG")
    folder = split(shard_of(*sample("a"), ("b.png", buffer.getvalue()), ("b.cls", b"0"), *sample("c")))
    assert "too long a strip" in refusal(folder, tmp_path / "cache").what
    assert opened(folder, tmp_path / "cache", skip_corrupt=True)[1].rows.tolist() == [0, 2]


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "gif", "tiff", "bmp"])
def test_damaged_images_are_corrupt_whatever_pillow_raises(kind: str) -> None:
    good = bytearray(encoded(picture(0), kind))
    generator = np.random.default_rng(0)
    for _ in range(150):
        bad = bytearray(good)
        for _ in range(int(generator.integers(1, 6))):
            bad[int(generator.integers(len(bad)))] = int(generator.integers(256))
        with suppress(OSError):
            decode(bytes(bad[: int(generator.integers(1, len(bad) + 1))]))


def test_a_program_in_postscript_is_no_image() -> None:
    with pytest.raises(OSError, match="no format"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")


# Tables and folders


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("path,label\nx.png,a\nx.png," + "b" * 200_000 + "\n", "field larger than field limit"),
        ("path,label\nx\0.png,a\n", "NUL"),
        ("path,label\nx.png,0.5\n", "has the label '0.5'"),
        ("path,label\nx.png,99999999999\nx.png,0\n", "by numbers"),
        ("path,label\nx.png,²\nx.png,2\n", ""),
        ("path,label\nx.png,a,b\n", "has 3 cells, and the header 2"),
        ('path,label\n"x.png,a\n', "is no table"),
        ("path,label,group\nx.png,a,\n", "lacks a group"),
    ],
)
def test_a_hostile_table_is_named(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "x.png").write_bytes(PICTURE)
    (tmp_path / "x.csv").write_text(text)
    if not says:  # a superscript is no digit, and so a name like any other
        assert open_tasks([str(tmp_path / "x.csv")])[0].classnames == ("2", "²")
        return
    with pytest.raises(DataError, match=says) as caught:
        open_tasks([str(tmp_path / "x.csv")])
    assert "x.csv" in caught.value.where and caught.value.hint


@pytest.mark.parametrize("header", ["filepath\ttitle", "Path;Caption", "IMAGE,Text", "x,filename,title"])
def test_headers_of_other_programs_are_understood(tmp_path: Path, header: str) -> None:
    delimiter = next(d for d in "\t;," if d in header)
    row = delimiter.join((["1"] if header.startswith("x") else []) + ["x.png", "a photo"])
    (tmp_path / "x.png").write_bytes(PICTURE)
    (tmp_path / "x.csv").write_text(f"{header}\n{row}\n")
    (task,) = open_tasks([str(tmp_path / "x.csv")])
    assert task.kind == "retrieval" and task.dataset.read(0).captions == ("a photo",)


def folder_of(tmp_path: Path, *names: str) -> Path:
    for name in names:
        (tmp_path / "folder" / name).mkdir(parents=True)
        (tmp_path / "folder" / name / "x.png").write_bytes(PICTURE)
    return tmp_path / "folder"


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("n01440764", "n02102040", "n99999999"), "'n99999999'"),
        (("n01440764", "cats"), "'cats'"),
        (("0", "1", "2"), "by numbers"),
        (tuple(str(n) for n in range(1, 1001)), "by numbers"),
    ],
)
def test_ids_that_nobody_knows_are_no_class_names(tmp_path: Path, names: tuple[str, ...], says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        open_tasks([str(folder_of(tmp_path, *names))])
    assert "classnames.txt" in caught.value.hint


def test_whole_numbers_that_pandas_wrote_are_labels(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(PICTURE)
    (tmp_path / "classnames.txt").write_text("zero\none\n")
    (tmp_path / "x.csv").write_text("path,label\nx.png,0.0\nx.png,1.0\n")
    (task,) = open_tasks([str(tmp_path / "x.csv")])
    assert [task.dataset.read(i).label for i in range(2)] == [0, 1] and task.classnames == ("zero", "one")


def test_what_is_not_called_by_its_name_is_said(tmp_path: Path) -> None:
    (task,) = open_tasks([str(folder_of(tmp_path, "hot_dog", "911"))])
    assert task.classnames == ("911", "hot dog")
    assert any("numbers for names, such as '911'" in note for note in task.notes)
    assert any("spaces for underscores" in note for note in task.notes)


def test_a_class_without_images_is_a_class_and_is_said(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "cat", "dog")
    (folder / "bird").mkdir()
    (task,) = open_tasks([str(folder)])
    assert task.classnames == ("bird", "cat", "dog") and task.dataset.read(0).label == 1
    assert any("'bird'" in note for note in task.notes)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("zeroshot_classification_templates.txt", "lambda c: f'a photo of {c}'"),
        ("zeroshot_classification_templates.txt", 'lambda c: f"a photo of {c}",'),
        ("zeroshot_classification_templates.txt", "'a photo of {c}',"),
        ("classnames.txt", '"tench",'),
    ],
)
def test_a_line_of_code_is_no_text(colours: Path, file: str, line: str) -> None:
    (colours / file).write_text(f"{line}\n")
    with pytest.raises(DataError, match="is code and not text") as caught:
        open_tasks([str(colours)])
    assert caught.value.hint in ("write a photo of {c} alone", "write tench alone")


def test_too_few_descriptors_are_said_to_be_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "classnames.txt").write_text("a\n")

    def few(*_: object, **__: object) -> str:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Path, "read_text", few)
    from soupkit.evaluation.text_files import read_lines

    with pytest.raises(DataError, match="ulimit -n"):
        read_lines(tmp_path / "classnames.txt")


def test_a_rewrite_that_restores_the_time_is_noticed(tmp_path: Path) -> None:
    write_lists(tmp_path / "data", ["a"], ["{c}"])
    write_shards(tmp_path / "data", "test", [{"png": PICTURE, "cls": b"0"}])
    shard = str(tmp_path / "data" / "test" / "0.tar")
    before, first = Path(shard).stat(), digest_of_files([shard], tmp_path / "memory", "x")
    with Path(shard).open("r+b") as file:
        file.seek(600)
        file.write(b"\x99")
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert digest_of_files([shard], tmp_path / "memory", "x") != first
