"""What does it cost to know where billions of samples lie? Reading headers, starting again, drawing, and memory.

    python -m benchmarks.shards --shards 20 --samples 10000
    python -m benchmarks.shards --orders 200000

The first makes shards of small files and indexes them, by one process, once without and once with the maps on disk; the
floor is one read of the shards from beginning to end. The second draws from the order over so many shards of 10,000
samples. Prints Markdown.
"""

import argparse
import io
import resource
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from soupkit.training.data.shards import Keys, ShardReader, open_table
from soupkit.training.order import order_of

_IMAGE = 20_000  # bytes
_KEYS = Keys(("jpg",), ("txt",))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--samples", type=int, default=10_000, help="in each")
    parser.add_argument("--orders", type=int, default=0, help="shards of 10,000 samples to draw from")
    arguments = parser.parse_args()
    lines = orders(arguments.orders) if arguments.orders else index(arguments.shards, arguments.samples)
    print("\n".join(lines))


def index(shards: int, samples: int) -> list[str]:
    """Headers a second, and a start with the maps on disk."""
    with TemporaryDirectory() as place:
        paths = [str(write(Path(place) / f"{i:05d}.tar", samples)) for i in range(shards)]
        floor = timed(lambda: [Path(p).read_bytes() for p in paths])
        first = timed(lambda: open_table(paths, _KEYS, Path(place) / "cache"))
        again = timed(lambda: open_table(paths, _KEYS, Path(place) / "cache"))
        read = ShardReader(open_table(paths, _KEYS, Path(place) / "cache"), _KEYS, Path(place) / "cache", together=32)
        drawn = np.random.default_rng(0).integers(0, shards * samples, 20_000)
        reads = timed(lambda: [read(int(i)) for i in drawn])
    n = shards * samples
    return [
        f"{n:,} samples in {shards} shards, read from the page cache by one process", "",
        "| | seconds | samples/s |", "|---|---|---|",
        f"| read the shards whole (floor) | {floor:.2f} | {n / floor:,.0f} |",
        f"| first start: headers | {first:.2f} | {n / first:,.0f} |",
        f"| later start | {again:.4f} | |",
        f"| read samples in random order | {reads:.2f} | {len(drawn) / reads:,.0f} |",
    ]  # fmt: skip


def orders(shards: int) -> list[str]:
    """Draws a second from the order over many shards, and what memory it takes."""
    before = peak()
    order = order_of(np.full(shards, 10_000), None, 0, share=1.0, balanced=False, block=16)
    order(0)
    drawn = timed(lambda: [order(k) for k in range(1_000_000)])
    return [
        f"{len(order):,} samples in {shards:,} shards: {1_000_000 / drawn:,.0f} draws/s, "
        f"{(peak() - before) / 1e6:.1f} MB of memory"
    ]


def write(path: Path, samples: int) -> Path:
    """Write a shard of images, captions and JSON, as published datasets have them."""
    with tarfile.open(path, "w") as archive:
        for i in range(samples):
            for suffix, size in (("jpg", _IMAGE), ("txt", 60), ("json", 600)):
                member = tarfile.TarInfo(f"{i:09d}.{suffix}")
                member.size = size
                archive.addfile(member, io.BytesIO(bytes(size)))
    return path


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def peak() -> float:
    """Return the most memory that the process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
