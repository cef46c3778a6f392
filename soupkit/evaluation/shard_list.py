"""Which shards a split has, and how many samples the files beside a shard say that it holds."""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from soupkit.errors import DataError
from soupkit.evaluation.text_files import read_lines
from soupkit.files import parse_json

_MOST_SHARDS = 1_000_000
_MOST_BYTES = 64 << 20  # of a file of counts
_NUMBERED = re.compile(r"[0-9]{1,18}")


def shards_of_split(directory: Path) -> tuple[list[Path], tuple[str, ...]]:
    """Return the shards of a split, in their order, and what a person should know about them.

    Raises DataError for one that is missing or too many by `nshards.txt`, and for two of one number.
    """
    present = {path.name: path for path in directory.glob("*.tar")}
    if not present:
        raise DataError("holds no shards", directory, "they are called 0.tar, 1.tar, ...")
    counted = directory / "nshards.txt"
    if counted.exists():
        shards, notes = _counted(directory, present, counted), []
    else:
        shards = sorted(present.values(), key=_by_number)
        notes = _gaps(directory, shards)
    for shard in shards:
        if not shard.is_file():
            raise DataError("is no regular file", shard, "put the shard itself there")
    return shards, tuple(notes)


def _counted(directory: Path, present: dict[str, Path], counted: Path) -> list[Path]:
    lines = read_lines(counted)
    if len(lines) > 1 or not re.fullmatch(r"[0-9]{1,7}", lines[0]) or not 0 < int(lines[0]) <= _MOST_SHARDS:
        stated = " ".join(lines)[:40]
        what = f"should be the number of shards, from 1 to {_MOST_SHARDS:,}, not {stated!r}"
        raise DataError(what, counted, "write how many tars there are")
    shards = [directory / f"{i}.tar" for i in range(int(lines[0]))]
    for shard in shards:
        if shard.name not in present:
            more = ", and those that are there have other names: remove nshards.txt" if "0.tar" not in present else ""
            raise DataError("is missing", shard, f"get it: nshards.txt says that there are {len(shards)}{more}")
    known = {shard.name for shard in shards}
    if more_shards := [p for p in sorted(present.values(), key=_by_number) if _is_numbered(p) and p.name not in known]:
        what = f"says that there are {len(shards)} shards, and {more_shards[0].name} is there as well"
        raise DataError(what, counted, "correct the number, or move away what does not belong to the split")
    return shards


def _gaps(directory: Path, shards: Sequence[Path]) -> list[str]:
    """Return a note where numbers are missing between those of `shards`. Raises DataError for two of one number."""
    if not all(map(_is_numbered, shards)):
        return []
    numbers = [int(shard.stem) for shard in shards]
    for before, after in pairwise(shards):
        if int(before.stem) == int(after.stem):
            raise DataError(
                f"holds {before.name} and {after.name}, which have one number", directory, "keep one of the two"
            )
    missing = numbers[-1] - numbers[0] + 1 - len(numbers)
    if not missing:
        return []
    first = next(a + 1 for a, b in pairwise(numbers) if b > a + 1)
    return [
        f"{directory} lacks {missing} of the shards {numbers[0]} to {numbers[-1]}, the first of them number {first}"
    ]


def _is_numbered(path: Path) -> bool:
    return bool(_NUMBERED.fullmatch(path.stem))


def _by_number(path: Path) -> tuple[int, str]:
    digits = re.sub(r"[^0-9]", "", path.stem)[-18:]
    return int(digits or 0), path.name


def stated_count(shard: Path) -> tuple[int | None, Path]:
    """Return how many samples `shard` holds by a file beside it, and that file; None where none says it.

    `sizes.json` has a count by the name of each shard; `00000_stats.json`, which img2dataset writes beside 00000.tar,
    has it as `successes`.
    """
    for path, key in (
        (shard.with_name("sizes.json"), shard.name),
        (shard.with_name(f"{shard.stem}_stats.json"), "successes"),
    ):
        try:
            if not path.is_file() or path.stat().st_size > _MOST_BYTES:
                continue
            count = parse_json(path.read_text("utf-8-sig")).get(key)
        except (OSError, ValueError, AttributeError):  # no document of counts
            continue
        if isinstance(count, int) and not isinstance(count, bool):
            return count, path
    return None, shard
