"""Where the samples of a tar lie: offsets and sizes, from its headers alone. A tar that is not whole is refused."""

import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from soupkit.errors import DataError
from soupkit.system import bytes_at

IMAGE_SUFFIXES = ("webp", "png", "jpg", "jpeg")  # in the order in which CLIP_benchmark looks for them
MOST_IMAGE_BYTES = 1 << 30
MOST_LABEL_BYTES = 16 << 20
_AGAIN = "get the shard again"
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Extent:
    """A stretch of a file, in bytes."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class SampleExtents:
    """Where one sample lies in its shard: the image first, then what belongs to it."""

    key: str
    extents: tuple[Extent, ...]


def index_shard(file: IO[bytes], path: Path, suffixes: Sequence[str]) -> list[SampleExtents]:
    """Return the samples of the open tar `file`, which is `path`: an image each, and a member for each of `suffixes`.

    Members of one key are a sample; where a key that is complete comes again, it is another sample, as for
    `webdataset`. Raises DataError for a tar that is damaged or ends without its end mark, and for a sample that lacks
    something.
    """
    groups: list[tuple[str, dict[str, Extent]]] = []
    open_groups: dict[str, dict[str, Extent]] = {}
    for key, suffix, extent in _members(file, path):
        group = open_groups.get(key)
        if group is None or (suffix in group and _complete(group, suffixes)):
            group = open_groups[key] = {}
            groups.append((key, group))
        elif suffix in group:
            raise DataError(f"holds {key}.{suffix} twice", path, "every file of a sample has a name of its own")
        group[suffix] = extent
    return [_sample(key, group, path, suffixes) for key, group in groups]


def _members(file: IO[bytes], path: Path) -> list[tuple[str, str, Extent]]:
    """Return key, suffix and extent of every file in the tar."""
    size = os.fstat(file.fileno()).st_size
    members: list[tuple[str, str, Extent]] = []
    try:
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:") as archive:
            last = -1
            for member in archive:
                if member.offset <= last or member.size < 0:  # a header that leads back would be read for ever
                    raise DataError(f"is damaged at byte {member.offset}", path, _AGAIN)
                last = member.offset
                if not member.isfile() or member.issparse():
                    continue
                if member.offset_data + member.size > size:
                    raise DataError(f"ends inside {member.name!r:.200}, at byte {size}", path, _AGAIN)
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                members.append((key, suffix.lower(), Extent(member.offset_data, member.size)))
            end = archive.offset
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise DataError(f"is damaged: {error}", path, _AGAIN) from error
    # tarfile takes the end of the file, and whatever is no header, for the end of the archive.
    if bytes_at(file.fileno(), _BLOCK, end) != bytes(_BLOCK):
        what = f"ends after {len(members)} files, at byte {end}, without the mark of a whole tar"
        raise DataError(what, path, _AGAIN)
    file.seek(end)
    while rest := file.read(1 << 20):
        if rest.count(0) != len(rest):
            what = f"holds more after {len(members)} files and the end of a tar, at byte {end}"
            raise DataError(what, path, "of tars that were joined byte by byte the first alone is read: pack them anew")
    return members


def _complete(group: dict[str, Extent], suffixes: Sequence[str]) -> bool:
    return any(s in group for s in IMAGE_SUFFIXES) and all(s in group for s in suffixes)


def _sample(key: str, group: dict[str, Extent], path: Path, suffixes: Sequence[str]) -> SampleExtents:
    image = next((group[s] for s in IMAGE_SUFFIXES if s in group), None)
    where = f"{path}, sample {key}"
    lacking = ["an image"] if image is None else []
    lacking += [f".{s}" for s in suffixes if s not in group]
    if image is None or lacking:
        names = ", ".join(f".{s}" for s in group)
        hint = f"an image is {', '.join(IMAGE_SUFFIXES)}"
        if any("." in s for s in group):
            hint = "a sample's name ends at its first dot, as for webdataset: names without dots are needed"
        raise DataError(f"has {names} and lacks {' and '.join(lacking)}", where, hint)
    beside = [group[s] for s in suffixes]
    for extent, most in ((image, MOST_IMAGE_BYTES), *((e, MOST_LABEL_BYTES) for e in beside)):
        if extent.size > most:
            what = f"has a file of {extent.size / 1e6:,.0f} MB, and {most / 1e6:,.0f} MB are the most"
            raise DataError(what, where, "images are files of their own, and labels are short")
    return SampleExtents(key, (image, *beside))
