"""The engine: workers that take tasks to their benches until none is left. Memory is a few blocks per worker."""

import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager

import numpy as np
import torch
import xxhash

from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.fingerprint import CHUNK_BYTES
from soupkit.checkpoint.writer import TensorWriter
from soupkit.merging.bench import Bench
from soupkit.merging.journal import Journal, TaskKey, TaskResult
from soupkit.merging.plan import Task
from soupkit.progress import Progress

_COLD_WORKERS = 8  # one reader got 0.47 GB/s from a cold disk, eight 1.18
_CUDA_WORKERS = 4
_PROBES = 64


def choose_threads(sources: Sequence[Checkpoint], device: torch.device) -> int:
    """Return how many workers suit: one per processor for files in the page cache, more where a disk is waited for."""
    if not in_page_cache(sources):
        return _COLD_WORKERS
    return _CUDA_WORKERS if device.type == "cuda" else min(len(os.sched_getaffinity(0)), _COLD_WORKERS)


def in_page_cache(sources: Sequence[Checkpoint]) -> bool:
    """Whether nearly all of a sample of the sources' bytes can be had without waiting for a disk."""
    if not hasattr(os, "RWF_NOWAIT"):
        return False
    byte, ready, asked = bytearray(1), 0, 0
    for file in (f for source in sources for f in source.files.values()):
        for i in range(_PROBES):
            asked += 1
            try:
                ready += os.preadv(file.descriptor, [byte], file.size * i // _PROBES, os.RWF_NOWAIT)
            except BlockingIOError:
                pass
            except OSError:
                return False
    return ready >= 0.9 * asked


@contextmanager
def one_thread_per_operation() -> Iterator[None]:
    """Let each operation run on one thread: the workers are the parallelism. The caller's setting comes back after."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Engine:
    """Runs the tasks of one merge in this process and keeps their results."""

    def __init__(
        self, bench: Bench, writer: TensorWriter, journal: Journal, done: dict[TaskKey, TaskResult], progress: Progress
    ) -> None:
        self._pattern = bench
        self._writer = writer
        self._journal = journal
        self._done = done
        self._progress = progress
        self._stop = threading.Event()
        self._results: dict[TaskKey, TaskResult] = {}
        self.resumed_bytes = 0

    def run(self, tasks: Sequence[Task], threads: int) -> dict[TaskKey, TaskResult]:
        """Work on `tasks` with `threads` workers; the first error stops all of them and is raised."""
        queue = deque(tasks)
        with one_thread_per_operation(), ThreadPoolExecutor(threads, thread_name_prefix="merge") as pool:
            futures = [pool.submit(self._work, queue) for _ in range(max(1, min(threads, len(queue))))]
            try:
                finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
            except BaseException:
                self._stop.set()
                raise
            if any(f.exception() for f in finished):
                self._stop.set()
            errors = [e for e in (f.exception() for f in futures) if e is not None]
            if errors:
                raise errors[0]
        return self._results

    def _work(self, queue: deque[Task]) -> None:
        torch.set_flush_denormal(False)  # a setting of the thread; the numerics hold for subnormal weights too
        bench = self._pattern.another()
        while not self._stop.is_set():
            try:
                task = queue.popleft()
            except IndexError:
                return
            result = self._done.get(task.key)
            nbytes = sum((s.stop - s.start) * s.tensor.itemsize for s in task.segments)
            if result is not None and self._is_written(task, result):
                self.resumed_bytes += nbytes
            else:
                result = bench.run(task)
            self._results[task.key] = result
            self._journal.record(task, result)
            self._progress.advance(nbytes)

    def _is_written(self, task: Task, result: TaskResult) -> bool:
        """Whether the output already holds what `result` says the task wrote."""
        for segment, sources in zip(task.segments, result.digests, strict=True):
            begin, end = (n * segment.tensor.itemsize for n in (segment.start, segment.stop))
            for start, digest in zip(range(begin, end, CHUNK_BYTES), sources[-1], strict=True):
                data = np.empty(min(CHUNK_BYTES, end - start), dtype=np.uint8)
                if not self._writer.read_back(segment.tensor.name, start, data):
                    return False
                if xxhash.xxh3_128_digest(data) != digest:
                    return False
        return True
