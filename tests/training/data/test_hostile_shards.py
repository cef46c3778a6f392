"""Shards, tables and sizes that are damaged or mean harm: said, and never a crash or a wait without end."""

import io
import json
import os
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest

from soupkit.errors import DataError
from soupkit.training.data.shards import Keys, ShardReader, map_of, open_table
from tests.training.data.entries import source_of
from tests.training.shards import png, write_shard

KEYS = Keys(("png",), ("txt",))


def test_a_pipe_in_the_place_of_a_shard_is_none(tmp_path: Path) -> None:
    whole = write_shard(tmp_path / "0.tar", 0, 4)
    os.mkfifo(tmp_path / "1.tar")
    source = source_of(shards=[str(whole), str(tmp_path / "1.tar")])
    assert len(source) == 4 and "is missing, or no file" in source.notes[0]


@pytest.mark.parametrize("count", [-5, 10**30, "many", None, [3], 1e400])
def test_a_count_that_is_none_is_not_believed(tmp_path: Path, count: object) -> None:
    shard = write_shard(tmp_path / "0.tar", 0, 4)
    (tmp_path / "sizes.json").write_text(json.dumps({"0.tar": count}))
    assert open_table([str(shard)], KEYS).counts.tolist() == [4]


def test_sizes_that_are_no_json_are_not_believed(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "0.tar", 0, 4)
    for content in ("[" * 100_000, "{", "3", "", '{"0.tar": ' + "9" * 10_000 + "}"):
        (tmp_path / "sizes.json").write_text(content)
        assert open_table([str(shard)], KEYS).counts.tolist() == [4]


def test_a_name_with_a_nul_is_a_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image with a caption"):
        source_of(shards=f"{tmp_path}/a\0b.tar")
    with pytest.raises(DataError, match="cannot be read"):
        source_of(csv=f"{tmp_path}/a\0b.csv")


def test_what_a_table_names_and_is_no_image_is_damage(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "t.csv").write_text("filepath,title\na\0b,x\npipe,x\n.,x\n" + "y" * 10_000 + ",x\nmissing,x\n")
    source = source_of(csv=tmp_path / "t.csv")
    for i in range(5):
        with pytest.raises((OSError, DataError)):
            source.read(i)


def shard_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def test_a_caption_of_megabytes_is_damage_and_takes_none(tmp_path: Path) -> None:
    shard = shard_of(tmp_path / "0.tar", {"0.png": png(0), "0.txt": b"x" * (2 << 20)})
    table = open_table([str(shard)], KEYS)
    with pytest.raises(DataError, match="a caption 1 MiB"):
        ShardReader(table, KEYS, None, 1)(0)


def test_links_in_a_shard_are_no_samples(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for name, kind in (("0.png", tarfile.SYMTYPE), ("0.txt", tarfile.LNKTYPE), ("1.png", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    with pytest.raises(DataError, match="no image with a caption"):
        source_of(shards=str(tmp_path / "0.tar"))


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_changed_in_a_shard_its_map_is_made_or_the_damage_said(tmp_path: Path, seed: int) -> None:
    shard = write_shard(tmp_path / "0.tar", 0, 6)
    with tarfile.open(shard, "a", format=tarfile.PAX_FORMAT, pax_headers={"comment": "ü" * 50}) as archive:
        archive.addfile(tarfile.TarInfo("ü" * 120 + ".txt"), io.BytesIO(b""))
    whole, moments = shard.read_bytes(), random.Random(seed)
    table = open_table([str(shard)], KEYS)
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(moments.randrange(1, 6)):
            damaged[moments.randrange(len(damaged))] = moments.choice(
                [0, 32, 48, 49, 55, 120, 255, moments.randrange(256)]
            )
        if moments.random() < 0.3:
            damaged = damaged[: moments.randrange(len(damaged))]
        shard.write_bytes(damaged)
        extents, _ = map_of(table, 0, KEYS, None)
        ends = extents[:, ::2].astype(np.int64) * 512 + extents[:, 1::2]
        assert not len(ends) or ends.max() <= len(damaged)
