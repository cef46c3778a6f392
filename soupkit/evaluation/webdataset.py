"""Reads the WebDataset folders that CLIP_benchmark publishes: shards, class names and templates in one directory.

SPLIT/nshards.txt, SPLIT/0.tar ...     one image per sample (webp, png, jpg, jpeg) with `cls`, `npy` or `txt`
classnames.txt, zeroshot_classification_templates.txt, dataset_type.txt
"""

import errno
import io
import os
import tarfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import IO

import numpy as np

from soupkit.errors import DataError, StorageError
from soupkit.evaluation.task import Kind, Sample

IMAGE_SUFFIXES = ("webp", "png", "jpg", "jpeg")  # in the order in which CLIP_benchmark looks for them
_LABEL_SUFFIX: dict[Kind, str] = {"classification": "cls", "multilabel": "npy", "retrieval": "txt"}
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
                raise DataError("this shard is missing", shard, f"nshards.txt promises {len(self._shards)}")
        self._unpacked: dict[int, IO[bytes]] = {}

    def _shard_count(self) -> int:
        path = self._directory / "nshards.txt"
        if not path.is_file():
            found = sum(1 for _ in self._directory.glob("*.tar"))
            if not found:
                raise DataError("holds no shards (0.tar, 1.tar, ...)", self._directory)
            return found
        (count,) = read_lines(path)[:1]
        if not count.isdigit() or count == "0":
            raise DataError(f"should be the number of shards, not {count!r}", path)
        return int(count)

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
            label = parts.get(_LABEL_SUFFIX[self._kind])
            if image is None or label is None:
                lacks = "an image" if image is None else f".{_LABEL_SUFFIX[self._kind]}"
                raise DataError(f"a sample lacks {lacks}", f"{path}, {key}", "get the shard again")
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
            if self._kind == "retrieval":
                captions = tuple(line.strip() for line in label.decode("utf-8").splitlines() if line.strip())
                if not captions:
                    raise ValueError("no caption")
                return Sample(place.key, image, captions=captions)
            if self._kind == "multilabel":
                flags = np.load(io.BytesIO(label), allow_pickle=False).reshape(-1)
                return Sample(place.key, image, labels=tuple(bool(f > 0) for f in flags))
            if not label.strip().removeprefix(b"-").isdigit():
                raise ValueError(f"{label[:40].decode(errors='replace')!r} is not the number of a class")
            return Sample(place.key, image, label=int(label))
        except (ValueError, EOFError) as error:
            raise DataError(f"its label cannot be read: {error}", where, "get the shard again") from error


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
        what = f"no room to unpack {path}: {error.strerror}"
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
        raise DataError(f"cannot be read: {error.strerror}", path) from error
    except UnicodeDecodeError as error:
        raise DataError(f"cannot be read: {error}", path) from error
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise DataError("is empty", path)
    if "" in lines:
        raise DataError(f"line {lines.index('') + 1} is empty", path, "every line is one entry; remove or fill it")
    return lines
