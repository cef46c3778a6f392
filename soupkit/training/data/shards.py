"""Shards of WebDataset by sample number: what lies where is found once, kept on disk, and loaded shard by shard.

CACHE/shards/SOURCE.npz     size, time and number of samples of every shard of a source: all that a start needs
CACHE/shards/xx/SHARD.npy   where the samples of one shard lie, 16 bytes each; read by whoever needs a sample of it

A process holds 24 bytes per shard and the maps of the shards that it is reading from, whatever the number of samples.
"""

import json
import os
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import BadZipFile

import numpy as np
import xxhash
from torch.utils.data import DataLoader, Dataset

from soupkit.errors import DataError
from soupkit.files import check_regular, parse_json, read_text, write_cached
from soupkit.progress import SILENT, Progress
from soupkit.ranks import Ranks
from soupkit.system import CLOEXEC, bytes_at
from soupkit.training.signals import Stop, held_signals, leave_signals_to_parent

_VERSION = 1
_BLOCK = 512  # members of a tar begin at multiples of this, so that 32 bits say where in 2 TiB
_UNKNOWN = -1
_MOST_SAMPLES = 1 << 40  # of one shard: no disk holds more
IMAGE_BYTES, CAPTION_BYTES = 1 << 28, 1 << 20  # what a sample may take: 256 MiB and 1 MiB
_NO_FILE = (-1, -1)


@dataclass(frozen=True, slots=True)
class Keys:
    """Which members of a shard are the image and the caption of a sample: suffixes, the first that is there."""

    images: tuple[str, ...]
    captions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """What is known of the shards at `paths` without their maps.

    `stamps` int64 [shards, 2] are sizes in bytes and times of change in ns, -1 for a file that is not there; `counts`
    int64 [shards] the samples of each; `problems` say, by number of the shard, what is wrong with it.
    """

    paths: tuple[str, ...]
    stamps: np.ndarray
    counts: np.ndarray
    problems: dict[int, str]


def open_table(
    paths: Sequence[str], keys: Keys, cache: Path | None = None, *, ranks: Ranks | None = None, workers: int = 0,
    stop: Stop | None = None, progress: Progress = SILENT,
) -> Table:  # fmt: skip
    """Return the table of shards; the headers of those that are new or have changed are read, shared by all ranks.

    A `sizes.json` beside the shards ({"00000.tar": 9873, ...}, as open_clip reads it) is believed, and nothing is read.
    A shard that is cut short or is no tar has the samples before the damage. Asked to stop, it keeps what it has read
    and raises KeyboardInterrupt. Every rank must call it.
    """
    ranks, stop = ranks or Ranks(), stop or Stop()
    paths = [os.path.abspath(p) for p in paths]  # noqa: PTH100 - hundreds of thousands of them
    manifest = _cached(cache, "\n".join([*paths, repr(keys)]), ".npz")
    table = ranks.lead(_remembered, paths, manifest)
    unknown = np.nonzero(table.counts == _UNKNOWN)[0]
    if not len(unknown):
        return table
    scanned: list[tuple[int, int, str]] = []
    progress.start("indexing shards", len(unknown[ranks.rank :: ranks.size]), "shards")
    try:
        work = _Scans(table, keys, cache, unknown[ranks.rank :: ranks.size])
        loader: DataLoader[Any] = DataLoader(
            work, batch_size=None, num_workers=workers, worker_init_fn=leave_signals_to_parent,
            multiprocessing_context="fork" if workers else None,
        )  # fmt: skip
        with held_signals():
            scans = iter(loader)
        for one in scans:
            scanned.append(one)
            progress.advance(1)
            if stop.asked:
                break
    finally:
        progress.finish()
    for part in ranks.gather(scanned):
        for shard, count, problem in part:
            table.counts[shard] = count
            if problem:
                table.problems[shard] = problem
    ranks.lead(_keep, table, manifest)
    if stop.on(ranks):
        raise KeyboardInterrupt
    return table


def _remembered(paths: Sequence[str], manifest: Path | None) -> Table:
    """Look at every file, and take over what was known of those that have not changed."""
    if len(paths) > 256:  # the waiting is for a file system that may be far away
        with ThreadPoolExecutor(16) as pool:
            stamps = np.array(list(pool.map(_stamp, paths, chunksize=64)), dtype=np.int64)
    else:
        stamps = np.array([_stamp(p) for p in paths], dtype=np.int64).reshape(-1, 2)
    counts, problems = np.full(len(paths), _UNKNOWN, dtype=np.int64), {}
    try:
        if manifest is not None:
            with np.load(manifest) as kept:
                same = (kept["stamps"] == stamps).all(axis=1)
                counts[same] = kept["counts"][same]
                told = {int(k): v for k, v in parse_json(str(kept["problems"])).items()}
                problems = {k: v for k, v in told.items() if same[k]}
    except (OSError, ValueError, KeyError, BadZipFile):
        pass
    sizes = lru_cache(maxsize=None)(_sizes)
    for shard in np.nonzero((counts == _UNKNOWN) & (stamps[:, 0] >= 0))[0]:
        folder, name = os.path.split(paths[int(shard)])
        counts[shard] = sizes(folder).get(name, _UNKNOWN)
    return Table(tuple(paths), stamps, counts, problems)


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)  # noqa: PTH116 - hundreds of thousands of them
    except (OSError, ValueError):
        return _NO_FILE
    return status.st_size, status.st_mtime_ns


def _sizes(folder: str) -> dict[str, int]:
    try:
        told = parse_json(read_text(Path(folder) / "sizes.json"))
        counts = {str(name): int(count) for name, count in told.items()}
        return {name: count for name, count in counts.items() if 0 <= count < _MOST_SAMPLES}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return {}


def _keep(table: Table, manifest: Path | None) -> None:
    if manifest is not None:
        problems = np.array(json.dumps(table.problems))

        def write(file: BinaryIO) -> None:
            np.savez(file, stamps=table.stamps, counts=table.counts, problems=problems)

        write_cached(manifest, write)


def _cached(cache: Path | None, what: str, suffix: str) -> Path | None:
    if cache is None:
        return None
    digest = xxhash.xxh3_128_hexdigest(f"{_VERSION}\n{what}".encode())
    folder = cache / "shards" if suffix == ".npz" else cache / "shards" / digest[:2]
    return folder / f"{digest}{suffix}"


class _Scans(Dataset[tuple[int, int, str]]):
    """The number of samples of each of some shards, and what is wrong with it; their maps are left in the cache."""

    def __init__(self, table: Table, keys: Keys, cache: Path | None, shards: np.ndarray) -> None:
        self._table, self._keys, self._cache, self._shards = table, keys, cache, shards

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, i: int) -> tuple[int, int, str]:
        shard = int(self._shards[i])
        extents, problem = map_of(self._table, shard, self._keys, self._cache)
        return shard, len(extents), problem


def map_of(table: Table, shard: int, keys: Keys, cache: Path | None) -> tuple[np.ndarray, str]:
    """Return where the samples of a shard lie, and what is wrong with it; from the cache where it has it.

    The map is uint32 [samples, 4]: offset in blocks of 512 bytes and size in bytes, of the image and of the caption.
    """
    path = table.paths[shard]
    stamp = [int(n) for n in table.stamps[shard]]
    kept = _cached(cache, f"{path}\n{stamp}\n{keys!r}", ".npy")
    try:
        if kept is not None:
            return np.load(kept, mmap_mode="r"), ""
    except (OSError, ValueError):
        pass
    extents, problem = _scan(path, keys)
    if kept is not None and not problem:
        write_cached(kept, lambda file: np.save(file, extents))
    return extents, problem


def _scan(path: str, keys: Keys) -> tuple[np.ndarray, str]:
    members: dict[str, dict[str, tuple[int, int]]] = {}
    problem = ""
    try:
        if not Path(path).is_file():  # a pipe would never end
            return np.zeros((0, 4), dtype=np.uint32), "is missing, or no file"
        size = Path(path).stat().st_size
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # or it would keep them all
                if member.issparse() or max(member.size, member.offset_data // _BLOCK) >= 1 << 32:
                    problem = "holds a member that is no file of an image or a caption"
                elif member.isfile() and member.offset_data + member.size <= size:
                    folder, _, name = member.name.rpartition("/")
                    stem, _, suffix = name.partition(".")
                    members.setdefault(f"{folder}/{stem}", {})[suffix.lower()] = (member.offset_data, member.size)
                elif member.isfile():
                    problem = "is cut short"
    except (OSError, tarfile.TarError, EOFError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        problem = f"cannot be read: {error}"
    samples = []
    for parts in members.values():
        chosen = [next((parts[k] for k in some if k in parts), None) for some in (keys.images, keys.captions)]
        if None not in chosen:
            samples.append([n for extent in chosen if extent for n in (extent[0] // _BLOCK, extent[1])])
    return np.array(samples, dtype=np.uint32).reshape(-1, 4), problem


class ShardReader:
    """Reads samples by number. The maps and the files of the `together` shards that were read last stay open."""

    def __init__(self, table: Table, keys: Keys, cache: Path | None, together: int) -> None:
        self._table, self._keys, self._cache = table, keys, cache
        self._first = np.concatenate([[0], np.cumsum(table.counts)])
        self._opened = lru_cache(maxsize=together)(self._open)

    def _open(self, shard: int) -> "_Opened":
        extents, _ = map_of(self._table, shard, self._keys, self._cache)
        return _Opened(self._table.paths[shard], extents)

    def __call__(self, index: int) -> tuple[bytes, tuple[str, ...]]:
        """Return an image file's bytes and its caption. Raises OSError or DataError for a sample that is damaged."""
        shard = int(np.searchsorted(self._first, index, side="right")) - 1
        opened, within = self._opened(shard), index - int(self._first[shard])
        if within >= len(opened.extents):
            raise DataError(
                f"holds {len(opened.extents)} samples where {self._table.counts[shard]} are said to be",
                self._table.paths[shard],
                "a sizes.json beside it may be of another version of the data: make it again, or remove it",
            )
        block, size, caption_block, caption_size = (int(n) for n in opened.extents[within])
        if size > IMAGE_BYTES or caption_size > CAPTION_BYTES:
            raise DataError(
                f"holds a sample of {size:,} and {caption_size:,} bytes",
                self._table.paths[shard],
                f"an image has at most {IMAGE_BYTES >> 20} MiB, a caption {CAPTION_BYTES >> 20} MiB",
            )
        caption = opened.read(caption_block * _BLOCK, caption_size)
        return opened.read(block * _BLOCK, size), (caption.decode("utf-8", "replace").strip(),)


class _Opened:
    """A shard with its map; closed when nobody has it any more."""

    def __init__(self, path: str, extents: np.ndarray) -> None:
        self._descriptor = -1
        check_regular(Path(path))
        self._descriptor = os.open(path, os.O_RDONLY | CLOEXEC)
        self.extents = extents

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def read(self, offset: int, size: int) -> bytes:
        data = bytes_at(self._descriptor, size, offset)
        if len(data) != size:
            raise OSError(f"the shard ends inside the sample, at byte {offset + len(data)}")
        return data
