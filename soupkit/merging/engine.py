"""The engine: workers that take slabs to their buffers until none is left. Memory is a few blocks per worker."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import xxhash

from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.fingerprint import CHUNK_BYTES
from soupkit.checkpoint.writer import TensorWriter
from soupkit.merging.forks import can_fork, run_in_forks
from soupkit.merging.journal import Journal, SlabKey, SlabResult
from soupkit.merging.plan import Slab
from soupkit.merging.slab_worker import SlabWorker
from soupkit.progress import Progress
from soupkit.ranks import Ranks
from soupkit.system import cores

_COLD_WORKERS = 8  # one reader got 0.47 GB/s from a cold disk, eight 1.18
_CUDA_WORKERS = 4
_PROBES = 64
FORK_BYTES = 512 << 20  # of inputs; a fork takes some hundredths of a second
_WRITERS = 2  # threads that only write; more were no faster


@dataclass(frozen=True, slots=True)
class Workers:
    """How many work on a merge in this process, as threads or each as a process of its own."""

    count: int
    forked: bool = False


def choose_workers(sources: Sequence[Checkpoint], device: torch.device, threads: int | None, ranks: Ranks) -> Workers:
    """Return the workers that suit: one per processor for files in the page cache, more where a disk is waited for.

    `threads` sets their number. They are processes where that pays: for large files that need not be waited for.
    """
    if not in_page_cache(sources):
        return Workers(threads or _COLD_WORKERS)
    if device.type == "cuda":
        return Workers(threads or _CUDA_WORKERS)
    count = threads or min(cores(), _COLD_WORKERS)
    large = sum(file.size for source in sources for file in source.files.values()) >= FORK_BYTES
    return Workers(count, large and count > 1 and ranks.size == 1 and can_fork())


def in_page_cache(sources: Sequence[Checkpoint]) -> bool:
    """Whether nearly all of a sample of the sources' bytes can be had without waiting for a disk."""
    if not hasattr(os, "RWF_NOWAIT"):
        return False
    byte, ready, asked = bytearray(1), 0, 0
    for file in (f for source in sources for f in source.files.values()):
        if file.descriptor is None:
            continue
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


@dataclass(frozen=True, slots=True)
class Resumed:
    """A merge to disk that may have begun before: its output, the slabs that are `done`, and the journal of others."""

    writer: TensorWriter
    journal: Journal
    done: Mapping[SlabKey, SlabResult]

    def result_of(self, slab: Slab) -> SlabResult | None:
        """Return the result of a slab whose bytes the output holds already, None for another."""
        result = self.done.get(slab.key)
        return result if result is not None and self._is_written(slab, result) else None

    def _is_written(self, slab: Slab, result: SlabResult) -> bool:
        """Whether the output already holds what `result` says the slab wrote."""
        for segment, sources in zip(slab.segments, result.digests, strict=True):
            begin, end = (n * segment.tensor.itemsize for n in (segment.start, segment.stop))
            for start, digest in zip(range(begin, end, CHUNK_BYTES), sources[-1], strict=True):
                data = np.empty(min(CHUNK_BYTES, end - start), dtype=np.uint8)
                if not self.writer.read_back(segment.tensor.name, start, data):
                    return False
                if xxhash.xxh3_128_digest(data) != digest:
                    return False
        return True


class Engine:
    """Runs the slabs of one merge in this process and its forks, and keeps their results."""

    def __init__(
        self,
        make_worker: Callable[[Executor], SlabWorker],
        progress: Progress,
        resumed: Resumed | None = None,
        watch: Callable[[], None] = lambda: None,
    ) -> None:
        """`watch` is called after each slab, by any of this process's threads; what it raises stops all workers."""
        self._make_worker = make_worker
        self._resumed = resumed
        self._watch = watch
        self._progress = progress
        self._stop = threading.Event()
        self._results: dict[SlabKey, SlabResult] = {}

    def run(self, slabs: Sequence[Slab], workers: Workers) -> dict[SlabKey, SlabResult]:
        """Work on `slabs`; the first error stops all workers and is raised."""

        @contextmanager
        def worker() -> Iterator[Callable[[int], SlabResult]]:
            with ThreadPoolExecutor(1, thread_name_prefix="write") as writers:
                own = self._new_worker(writers)

                def do(i: int) -> SlabResult:
                    return self._do(own, slabs[i])

                yield do

        def record(i: int, result: SlabResult) -> None:
            self._record(slabs[i], result)

        with one_thread_per_operation():
            if workers.forked:
                run_in_forks(workers.count, len(slabs), worker, record)
            else:
                self._run_in_threads(slabs, workers.count)
        return self._results

    def _run_in_threads(self, slabs: Sequence[Slab], threads: int) -> None:
        queue = deque(slabs)
        with (
            ThreadPoolExecutor(_WRITERS, thread_name_prefix="write") as writers,
            ThreadPoolExecutor(threads, thread_name_prefix="merge") as pool,
        ):
            futures = [pool.submit(self._work, queue, writers) for _ in range(max(1, min(threads, len(queue))))]
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

    def _work(self, queue: deque[Slab], writers: Executor) -> None:
        worker = self._new_worker(writers)
        while not self._stop.is_set():
            try:
                slab = queue.popleft()
            except IndexError:
                return
            self._record(slab, self._do(worker, slab))

    def _new_worker(self, writers: Executor) -> SlabWorker:
        torch.set_num_threads(1)  # a library for factorisations asks each thread anew, and more threads round otherwise
        torch.set_flush_denormal(False)  # a setting of the thread; the numerics hold for subnormal weights too
        return self._make_worker(writers)

    def _do(self, worker: SlabWorker, slab: Slab) -> SlabResult:
        result = self._resumed.result_of(slab) if self._resumed is not None else None
        return result if result is not None else worker.run(slab)

    def _record(self, slab: Slab, result: SlabResult) -> None:
        self._results[slab.key] = result
        if self._resumed is not None:
            self._resumed.journal.record(slab, result)
        self._progress.advance(sum((s.stop - s.start) * s.tensor.itemsize for s in slab.segments))
        self._watch()
