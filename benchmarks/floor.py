"""The floor under any merge: read the inputs, write as many bytes as the soup has, sync. No arithmetic.

python -m benchmarks.floor OUT IN [IN ...]
"""

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

BLOCK = 2 << 20
SLAB = 32 << 20


def floor(inputs: list[Path], output: Path, workers: int) -> float:
    """Return the seconds that it takes with `workers` threads, the preallocation included."""
    descriptors = [os.open(path, os.O_RDONLY) for path in inputs]
    size = os.fstat(descriptors[0]).st_size
    started = time.perf_counter()
    target = os.open(output, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.posix_fallocate(target, 0, size)

    def slab(begin: int) -> None:
        buffers = [bytearray(BLOCK) for _ in descriptors]
        for start in range(begin, min(begin + SLAB, size), BLOCK):
            for descriptor, buffer in zip(descriptors, buffers, strict=True):
                n = os.preadv(descriptor, [buffer], start)
            os.pwrite(target, memoryview(buffers[0])[:n], start)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(slab, range(0, size, SLAB)))
    os.fsync(target)
    seconds = time.perf_counter() - started
    for descriptor in (*descriptors, target):
        os.close(descriptor)
    return seconds


if __name__ == "__main__":
    out, *sources = map(Path, sys.argv[1:])
    threads = int(os.environ.get("WORKERS", os.cpu_count() or 1))
    print(json.dumps({"merge": floor(sources, out, threads)}))
