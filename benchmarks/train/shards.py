"""Time what it takes to know where samples lie: reading shards' headers, starting again, and reading in random order.

Shards of small files are made and indexed by one process, once without and once with the maps on disk; the floor is one
read of the shards from beginning to end.
"""

import argparse
import io
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.tools.clock import timed
from benchmarks.tools.commands import Subject
from benchmarks.tools.machine import machine
from soupkit.training.data.shards import Keys, ShardReader, open_table

_IMAGE = 20_000  # bytes
_KEYS = Keys(("jpg",), ("txt",))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--samples", type=int, default=10_000, help="in each")


def shards(arguments: argparse.Namespace) -> list[str]:
    """Make shards, index them without and with the maps on disk, and read samples."""
    count, samples = arguments.shards, arguments.samples
    with TemporaryDirectory() as directory:
        paths = [str(write_shard(Path(directory) / f"{i:05d}.tar", samples)) for i in range(count)]
        floor = timed(lambda: [Path(p).read_bytes() for p in paths])
        cache = Path(directory) / "cache"
        first = timed(lambda: open_table(paths, _KEYS, cache))
        again = timed(lambda: open_table(paths, _KEYS, cache))
        read = ShardReader(open_table(paths, _KEYS, cache), _KEYS, cache, together=32)
        drawn = np.random.default_rng(0).integers(0, count * samples, 20_000)
        reads = timed(lambda: [read(int(i)) for i in drawn])
    n = count * samples
    return [
        f"## {n:,} samples in {count} shards, read from the page cache by one process",
        "",
        f"{machine()}; images of {_IMAGE:,} bytes",
        "",
        "| | seconds | samples/s |",
        "|---|---|---|",
        f"| read the shards whole (floor) | {floor:.2f} | {n / floor:,.0f} |",
        f"| first start: headers | {first:.2f} | {n / first:,.0f} |",
        f"| later start | {again:.4f} | |",
        f"| read samples in random order | {reads:.2f} | {len(drawn) / reads:,.0f} |",
    ]


def write_shard(path: Path, samples: int) -> Path:
    """Write a shard of images, captions and JSON, as published datasets have them."""
    with tarfile.open(path, "w") as archive:
        for i in range(samples):
            for suffix, size in (("jpg", _IMAGE), ("txt", 60), ("json", 600)):
                member = tarfile.TarInfo(f"{i:09d}.{suffix}")
                member.size = size
                archive.addfile(member, io.BytesIO(bytes(size)))
    return path


SUBJECT = Subject("shards", __doc__, add_arguments, shards)
