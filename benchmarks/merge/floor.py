"""The floor under any merge: read the inputs, write as many bytes as the soup has, sync. No arithmetic.

    python -m benchmarks.merge.floor [--direct] OUT IN [IN ...]

With --direct whole pages are written past the page cache, as soupkit does.
"""

import json
import mmap
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

BLOCK = 2 << 20
SLAB = 32 << 20


def floor(inputs: list[Path], output: Path, workers: int, *, direct: bool = False) -> float:
    """Return the seconds that it takes with `workers` threads, the preallocation included."""
    descriptors = [os.open(path, os.O_RDONLY) for path in inputs]
    size = os.fstat(descriptors[0]).st_size
    started = time.perf_counter()
    target = os.open(output, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.posix_fallocate(target, 0, size)
    past_cache = os.open(output, os.O_WRONLY | os.O_DIRECT) if direct else target

    def slab(begin: int) -> None:
        buffers = [mmap.mmap(-1, BLOCK) for _ in descriptors]  # begin at a page, which direct writes ask for
        for start in range(begin, min(begin + SLAB, size), BLOCK):
            for descriptor, buffer in zip(descriptors, buffers, strict=True):
                n = os.preadv(descriptor, [buffer], start)
            os.pwrite(past_cache if n == BLOCK else target, memoryview(buffers[0])[:n], start)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(slab, range(0, size, SLAB)))
    os.fsync(target)
    seconds = time.perf_counter() - started
    for descriptor in (*descriptors, target):
        os.close(descriptor)
    return seconds


if __name__ == "__main__":
    arguments = sys.argv[1:]
    past = "--direct" in arguments
    out, *sources = (Path(a) for a in arguments if a != "--direct")
    threads = int(os.environ.get("WORKERS", os.cpu_count() or 1))
    print(json.dumps({"merge": floor(sources, out, threads, direct=past)}))
