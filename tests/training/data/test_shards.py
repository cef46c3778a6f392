"""The index of shards: read once, kept on disk, shared among ranks, and small in memory."""

import json
from pathlib import Path

import numpy as np
import pytest

from soupkit.errors import DataError
from soupkit.ranks import Ranks
from soupkit.training.data import shards
from soupkit.training.data.shards import Keys, ShardReader, Table, open_table
from soupkit.training.signals import Stop
from tests.training.processes import in_processes
from tests.training.shards import png, write_shard

KEYS = Keys(("jpg", "png"), ("txt",))


@pytest.fixture
def four(tmp_path: Path) -> list[str]:
    return [str(write_shard(tmp_path / f"{i}.tar", 10 * i, 5 + i)) for i in range(4)]


@pytest.fixture
def scanned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shards whose headers are read."""
    names: list[str] = []
    real = shards._scan

    def scan(path: str, keys: Keys) -> tuple[np.ndarray, str]:
        names.append(Path(path).name)
        return real(path, keys)

    monkeypatch.setattr(shards, "_scan", scan)
    return names


def everything(table: Table, cache: Path | None) -> list[tuple[bytes, str]]:
    read = ShardReader(table, KEYS, cache, together=2)
    return [(image, caption) for image, (caption,) in map(read, range(int(table.counts.sum())))]


def test_headers_are_read_once_and_again_only_where_a_shard_has_changed(
    four: list[str], scanned: list[str], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    table = open_table(four, KEYS, cache)
    assert list(table.counts) == [5, 6, 7, 8] and scanned == ["0.tar", "1.tar", "2.tar", "3.tar"]
    wanted = [(png(10 * i + k), f"shade {10 * i + k}") for i in range(4) for k in range(5 + i)]
    assert everything(table, cache) == wanted
    assert everything(open_table(four, KEYS, cache), cache) == wanted and len(scanned) == 4
    write_shard(Path(four[2]), 20, 9)
    assert list(open_table(four, KEYS, cache).counts) == [5, 6, 9, 8] and scanned[4:] == ["2.tar"]
    (manifest,) = (cache / "shards").glob("*.npz")
    manifest.write_bytes(b"damaged")
    assert list(open_table(four, KEYS, cache).counts) == [5, 6, 9, 8] and len(scanned) == 5, "the maps are still there"


def test_a_map_takes_16_bytes_a_sample(four: list[str], tmp_path: Path) -> None:
    open_table(four, KEYS, tmp_path / "cache")
    maps = [np.load(p) for p in (tmp_path / "cache" / "shards").glob("*/*.npy")]
    assert sorted(m.nbytes for m in maps) == [16 * n for n in (5, 6, 7, 8)]


@pytest.mark.parametrize("cache", [None, "file"])
def test_without_a_cache_it_only_takes_longer(
    four: list[str], scanned: list[str], tmp_path: Path, cache: str | None
) -> None:
    if cache is not None:
        (tmp_path / cache).write_text("no place for a folder")
    place = None if cache is None else tmp_path / cache
    table = open_table(four, KEYS, place)
    assert len(everything(table, place)) == 26 and len(scanned) == 8


def test_sizes_that_stand_beside_the_shards_are_believed(four: list[str], scanned: list[str], tmp_path: Path) -> None:
    (tmp_path / "sizes.json").write_text(json.dumps({f"{i}.tar": 5 + i for i in range(3)} | {"3.tar": 9}))
    table = open_table(four, KEYS, tmp_path / "cache")
    assert list(table.counts) == [5, 6, 7, 9] and not scanned
    read = ShardReader(table, KEYS, tmp_path / "cache", together=2)
    assert read(25)[1] == ("shade 37",) and scanned == ["3.tar"]
    with pytest.raises(DataError, match="holds 8 samples where 9 are said to be"):
        read(26)


def test_a_damaged_shard_is_said_again_at_the_next_start(four: list[str], tmp_path: Path) -> None:
    whole = Path(four[1]).read_bytes()
    Path(four[1]).write_bytes(whole[:4000])
    Path(four[3]).unlink()
    for _ in range(2):
        table = open_table(four, KEYS, tmp_path / "cache")
        assert set(table.problems) == {1, 3} and 0 < table.counts[1] < 6 and not table.counts[3]
    Path(four[1]).write_bytes(whole)
    assert list(open_table(four, KEYS, tmp_path / "cache").counts) == [5, 6, 7, 0]


def test_asked_to_stop_it_keeps_what_it_has_found(four: list[str], scanned: list[str], tmp_path: Path) -> None:
    stop = Stop()
    stop.asked = True
    for n in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            open_table(four, KEYS, tmp_path / "cache", stop=stop)
        assert len(scanned) == n


def share(ranks: Ranks, paths: list[str], cache: str) -> tuple[list[int], list[str]]:
    """What a rank knows in the end, and what it read itself."""
    read: list[str] = []
    real = shards._scan

    def scan(path: str, keys: Keys) -> tuple[np.ndarray, str]:
        read.append(Path(path).name)
        return real(path, keys)

    shards._scan = scan
    return open_table(paths, KEYS, Path(cache), ranks=ranks).counts.tolist(), read


def test_ranks_share_the_reading_and_all_know_the_result(four: list[str], tmp_path: Path) -> None:
    first, second = in_processes(2, share, four, str(tmp_path / "cache"))
    assert first[0] == second[0] == [5, 6, 7, 8]
    assert (first[1], second[1]) == (["0.tar", "2.tar"], ["1.tar", "3.tar"])
