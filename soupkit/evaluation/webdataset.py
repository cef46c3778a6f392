"""Reads the WebDataset folders that CLIP_benchmark publishes: shards, class names and templates in one directory.

SPLIT/nshards.txt, SPLIT/0.tar ...     one image per sample (webp, png, jpg, jpeg) with `cls`, `npy` or `txt`
classnames.txt, zeroshot_classification_templates.txt, dataset_type.txt
"""

import errno
import os
import tarfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import IO

from soupkit.errors import DataError, StorageError
from soupkit.evaluation.kinds import Kind
from soupkit.evaluation.task import Sample

IMAGE_SUFFIXES = ("webp", "png", "jpg", "jpeg")  # in the order in which CLIP_benchmark looks for them
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one sample lies in its shard: (offset, bytes) of the image and of what belongs to it."""

    shard: int
    key: str
    image: tuple[int, int]
    label: tuple[int, int]


class WebDatasetFolder:
    """One split of a folder in CLIP_benchmark's layout. Shards are indexed when the first sample is asked for."""

    def __init__(self, directory: Path, split: str, kind: Kind) -> None:
        """Raises DataError when the split or one of its shards is missing."""
        self._directory = directory / split
        self._kind = kind
        self._shards = [self._directory / f"{i}.tar" for i in range(self._shard_count())]
        for shard in self._shards:
            if not shard.is_file():
                raise DataError(
                    "is missing", shard, f"nshards.txt says that there are {len(self._shards)}; get the shard"
                )
        self._unpacked: dict[int, IO[bytes]] = {}

    def _shard_count(self) -> int:
        path = self._directory / "nshards.txt"
        if not path.is_file():
            count = sum(1 for _ in self._directory.glob("*.tar"))
            if not count:
                raise DataError("holds no shards", self._directory, "they are called 0.tar, 1.tar, ...")
            return count
        (stated,) = read_lines(path)[:1]
        if not stated.isdigit() or stated == "0":
            raise DataError(f"should be the number of shards, not {stated!r}", path, "write how many there are")
        return int(stated)

    @property
    def place(self) -> str:
        """The folder of the split."""
        return str(self._directory)

    def files(self) -> list[str]:
        """Return the shards."""
        return [str(shard) for shard in self._shards]

    def beside_files(self) -> str:
        """Return nothing: labels and captions lie in the shards."""
        return ""

    def __len__(self) -> int:
        return len(self._places)

    @cached_property
    def _places(self) -> list[_Place]:
        return [place for i in range(len(self._shards)) for place in self._index(i)]

    def _index(self, number: int) -> list[_Place]:
        path = self._shards[number]
        found: dict[str, dict[str, tuple[int, int]]] = {}
        try:
            with path.open("rb") as file:
                compressed = file.read(2) == _GZIP
            if compressed:
                self._unpacked[number] = _unpack(path)
            with (
                tarfile.open(path, "r:") if not compressed else tarfile.open(fileobj=self._unpacked[number], mode="r:")
            ) as archive:
                for member in archive:
                    if member.isfile():
                        folder, _, name = member.name.rpartition("/")
                        stem, _, suffix = name.partition(".")
                        key = f"{folder}/{stem}" if folder else stem
                        found.setdefault(key, {})[suffix.lower()] = (member.offset_data, member.size)
        except (OSError, tarfile.TarError, EOFError) as error:
            raise DataError(f"cannot be read: {error}", path, "get the shard again") from error
        places = []
        for key, parts in found.items():
            image = next((parts[s] for s in IMAGE_SUFFIXES if s in parts), None)
            label = parts.get(self._kind.suffix)
            if image is None or label is None:
                lacks = "an image" if image is None else f".{self._kind.suffix}"
                raise DataError(f"lacks {lacks}", f"{path}, sample {key}", "get the shard again")
            places.append(_Place(number, key, image, label))
        return places

    def read(self, index: int) -> Sample:
        """Return sample `index`. Raises DataError where the shard or the label is damaged."""
        place = self._places[index]
        where = f"{self._shards[place.shard]}, {place.key}"
        try:
            if place.shard in self._unpacked:
                image, label = (_pread(self._unpacked[place.shard].fileno(), p) for p in (place.image, place.label))
            else:
                with self._shards[place.shard].open("rb") as file:
                    image, label = (_pread(file.fileno(), p) for p in (place.image, place.label))
        except OSError as error:
            raise DataError(f"cannot be read: {error}", where, "get the shard again") from error
        try:
            return self._kind.parse(place.key, image, label)
        except (ValueError, EOFError) as error:
            raise DataError(f"has a label that cannot be read: {error}", where, "get the shard again") from error


def _unpack(path: Path) -> IO[bytes]:
    """Decompress a gzipped shard into a nameless temporary file, so that samples can be read in any order."""
    import gzip
    import shutil

    file = TemporaryFile(prefix="soupkit-")  # noqa: SIM115 - lives as long as the dataset
    try:
        with gzip.open(path) as source:
            shutil.copyfileobj(source, file, 1 << 20)
        file.flush()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        what = f"has no room to unpack {path}: {error.strerror}"
        raise StorageError(what, gettempdir(), "name another place with TMPDIR") from error
    file.seek(0)
    return file


def _pread(descriptor: int, place: tuple[int, int]) -> bytes:
    offset, size = place
    data = os.pread(descriptor, size, offset)
    if len(data) != size:
        raise OSError(f"the file ends inside the sample, at byte {offset + len(data)}")
    return data


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file, stripped, without empty ones at its end.

    Raises DataError for a file that is missing, empty, or has an empty line between others: a line's number is a label.
    """
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path, "get the file, or mend its permissions") from error
    except UnicodeDecodeError as error:
        raise DataError(f"cannot be read: {error}", path, "write it in UTF-8") from error
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise DataError("is empty", path, "write one entry a line, or remove the file")
    if "" in lines:
        raise DataError("is empty", f"{path}, line {lines.index('') + 1}", "every line is one entry; remove or fill it")
    return lines
