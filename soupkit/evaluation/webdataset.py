"""Reads the WebDataset folders that CLIP_benchmark publishes: shards, class names and templates in one directory.

SPLIT/nshards.txt, SPLIT/0.tar ...     one image per sample (webp, png, jpg, jpeg) with `cls`, `npy` or `txt`
classnames.txt, zeroshot_classification_templates.txt, dataset_type.txt

Without nshards.txt all tars of the split are read, in the order of their numbers (00000.tar, as img2dataset and
ShardWriter name them).
"""

import errno
import gzip
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import IO

from soupkit.errors import DataError, StorageError
from soupkit.evaluation.kinds import Kind
from soupkit.evaluation.npy import read_integers
from soupkit.evaluation.shard_index import Extent, SampleExtents, index_shard
from soupkit.evaluation.shard_list import shards_of_split, stated_count
from soupkit.evaluation.task import Sample, evenly
from soupkit.evaluation.text_files import unreadable
from soupkit.system import bytes_at

_AGAIN = "get the shard again"
_GZIP = b"\x1f\x8b"


class WebDatasetShards:
    """Shards of images with what belongs to each. They are indexed when the first sample is asked for."""

    def __init__(
        self, place: object, shards: Sequence[Path], kind: Kind, *, groups: bool = False, notes: tuple[str, ...] = ()
    ) -> None:
        """`place` is what errors call all of them. With `groups`, the first number of each sample's `npy` is the group
        that it is counted in. `notes` say what a person should know about which shards there are."""
        self.place, self._shards, self.notes = str(place), tuple(shards), notes
        self._kind = kind
        self._groups = groups
        self._suffixes = (kind.suffix, *(["npy"] if groups else []))
        self._unpacked: dict[int, IO[bytes]] = {}

    def files(self) -> list[str]:
        """Return the shards."""
        return [str(shard) for shard in self._shards]

    def beside_files(self) -> str:
        """Return nothing: labels and captions lie in the shards."""
        return ""

    def __len__(self) -> int:
        return len(self._samples)

    def some(self, limit: int) -> list[int]:
        """Return the numbers of `limit` samples, evenly spread."""
        return evenly(len(self), limit)

    @cached_property
    def _samples(self) -> list[tuple[int, SampleExtents]]:
        return [(number, sample) for number in range(len(self._shards)) for sample in self._index(number)]

    def _index(self, number: int) -> list[SampleExtents]:
        path, samples = self._shards[number], self._indexed(number)
        stated, where = stated_count(path)
        if stated is not None and stated != len(samples):
            what = f"holds {len(samples)} samples, and {where.name} says that there are {stated}"
            raise DataError(what, path, f"get the shard again, or correct {where.name}")
        return samples

    def _indexed(self, number: int) -> list[SampleExtents]:
        path = self._shards[number]
        try:
            with path.open("rb") as file:
                if file.read(2) != _GZIP:
                    return index_shard(file, path, self._suffixes)
            self._unpacked[number] = _unpack(path)
            return index_shard(self._unpacked[number], path, self._suffixes)
        except OSError as error:
            raise unreadable(error, path, _AGAIN) from error

    def read(self, index: int) -> Sample:
        """Return sample `index`. Raises DataError where the shard or the label is damaged."""
        number, sample = self._samples[index]
        path = self._shards[number]
        where = f"{path}, sample {sample.key}"
        try:
            if number in self._unpacked:
                image, *beside = (_pread(self._unpacked[number].fileno(), extent) for extent in sample.extents)
            else:
                with path.open("rb") as file:
                    image, *beside = (_pread(file.fileno(), extent) for extent in sample.extents)
        except OSError as error:
            raise unreadable(error, where, _AGAIN) from error
        try:
            read = self._kind.parse(sample.key, image, beside[0])
        except ValueError as error:
            raise DataError(f"has {error}", where, self._kind.label_hint) from error
        try:
            return replace(read, group=read_integers(beside[1])[0]) if self._groups else read
        except (ValueError, IndexError) as error:
            raise DataError(f"has no group in .npy: {error}", where, "its first number is the group") from error


def shards_of_folder(directory: Path, split: str, kind: Kind, *, groups: bool = False) -> WebDatasetShards:
    """Return one split of a folder in CLIP_benchmark's layout. Raises DataError when the split or one of its shards is
    missing."""
    shards, notes = shards_of_split(directory / split)
    return WebDatasetShards(directory / split, shards, kind, groups=groups, notes=notes)


def _unpack(path: Path) -> IO[bytes]:
    """Decompress a gzipped shard into a nameless temporary file, so that samples can be read in any order."""
    file = TemporaryFile(prefix="soupkit-")  # noqa: SIM115 - lives as long as the dataset
    try:
        with gzip.open(path) as source:
            shutil.copyfileobj(source, file, 1 << 20)
        file.flush()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"is damaged: {error}", path, _AGAIN) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        what = f"has no room to unpack {path}: {error.strerror}"
        raise StorageError(what, gettempdir(), "name another place with TMPDIR") from error
    file.seek(0)
    return file


def _pread(descriptor: int, extent: Extent) -> bytes:
    data = bytes_at(descriptor, extent.size, extent.offset)
    if len(data) != extent.size:
        raise OSError(f"it ends inside the sample, at byte {extent.offset + len(data)}")
    return data
