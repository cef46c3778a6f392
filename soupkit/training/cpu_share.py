"""What a rank does with its cores, and how a GPU multiplies: settings of torch's for as long as a run lasts."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from soupkit import system

_READERS = 16  # processes that a rank reads with, at most, where nothing is said: each holds two batches


@dataclass(frozen=True, slots=True)
class Cores:
    """How many processes read, how many threads compute (None: as many as torch has), and whether they take turns."""

    workers: int
    threads: int | None
    by_turns: bool

    @contextmanager
    def threads_set(self) -> Iterator[None]:
        """Give torch its threads for the time of a `with` block."""
        before = torch.get_num_threads()
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def share_of_cores(workers: int | None, threads: int | None, cores: int | None, *, gpu: bool) -> Cores:
    """Divide this machine's cores, or those `cores` that are the run's, among ranks, and between reading and computing.

    A model on the CPU computes on all cores, and by turns with it readers do on as many; where fewer threads are asked
    for, by OMP_NUM_THREADS too, as `torchrun` does, the cores that they leave read meanwhile.
    """
    machine = cores or system.cores()
    own = max(1, machine // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if gpu:
        return Cores(min(_READERS, max(1, own - 1)) if workers is None else workers, threads, False)
    computing = threads or (torch.get_num_threads() if "OMP_NUM_THREADS" in os.environ else own)
    if workers is None:
        left = max(0, own - computing)
        workers = min(_READERS, left or own) if own > 1 else 0
    return Cores(workers, computing, workers + computing > own)


@contextmanager
def products_rounded(precision: str, device: torch.device) -> Iterator[None]:
    """Let a GPU round the factors of float32 products to TF32 where `precision` is "tf32", as open_clip's trainer does.

    That is a setting for the whole process; it is put back at the end of the `with` block.
    """
    before = torch.get_float32_matmul_precision()
    if precision == "tf32" and device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
