"""What is read: shards, tables, tasks, and damage in them."""

from pathlib import Path

import pytest

from soupkit.errors import DataError
from soupkit.evaluation.adapter import open_tokenizer
from soupkit.training.data.batches import TrainingData
from tests.conftest import CONFIG
from tests.training.data.entries import entry, source_of
from tests.training.shards import png, write_shard


def test_a_shard_cut_short_gives_what_is_whole(tmp_path: Path) -> None:
    first, second = write_shard(tmp_path / "0.tar", 0, 10), write_shard(tmp_path / "1.tar", 10, 10)
    second.write_bytes(second.read_bytes()[:8000])
    source = source_of(shards=[str(first), str(second), str(tmp_path / "2.tar")])
    assert 10 < len(source) < 20
    assert [Path(n.split(": ")[0]).name for n in source.notes] == ["1.tar", "2.tar"]
    assert [source.read(i)[1] for i in range(len(source))] == [(f"shade {i}",) for i in range(len(source))]


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image with a caption"):
        source_of(shards=str(tmp_path / "{0..3}.tar"))
    with pytest.raises(DataError, match="braces cannot be expanded"):
        source_of(shards=str(tmp_path / "{0..3.tar"))
    with pytest.raises(DataError, match="nowhere: names no shards"):
        source_of(shards="nowhere")
    everything = tuple(range(40))
    run = entry(data={"shards": str(write_shard(tmp_path / "0.tar", 0, 40, damaged=everything))})
    data = TrainingData(run, CONFIG, open_tokenizer(CONFIG, (), ""))
    with pytest.raises(DataError, match="in a row are damaged"):
        data[0]


def test_a_csv_names_images_and_captions(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    (tmp_path / "t.csv").write_text("file,text\n" + "".join(f'{i}.png,"shade, {i}"\n' for i in range(3)))
    source = source_of(csv=tmp_path / "t.csv", csv_image="file", csv_caption="text")
    assert [source.read(i) for i in range(3)] == [(png(i), (f"shade, {i}",)) for i in range(3)]
    with pytest.raises(DataError, match="lacks the columns"):
        source_of(csv=tmp_path / "t.csv")


def test_a_table_may_be_open_clips_own_and_lack_a_value(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(png(0))
    (tmp_path / "t.csv").write_text("title\tfilepath\na shade, dark\t0.png\nno image\n", "utf-8-sig")
    source = source_of(csv=tmp_path / "t.csv")
    assert source.read(0) == (png(0), ("a shade, dark",))
    with pytest.raises(DataError, match="is no file"):
        source.read(1)
