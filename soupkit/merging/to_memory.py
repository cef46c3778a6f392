"""A merge into memory: the soup as a state dict, made by the same engine, with the same checks, bit for bit."""

from collections.abc import Sequence
from concurrent.futures import Executor

import numpy as np
import torch
from torch import Tensor

from soupkit.checkpoint.dtypes import DTYPES
from soupkit.device import choose_device
from soupkit.merging.engine import Engine, Workers, choose_workers, one_thread_per_operation
from soupkit.merging.memory import fitting, memory_of_a_worker
from soupkit.merging.plan import TensorPlan, cut
from soupkit.merging.preparation import Prepared
from soupkit.merging.slab_worker import SlabWorker
from soupkit.merging.survey import SharedPass, Survey, of_the_model
from soupkit.progress import Progress
from soupkit.ranks import Ranks
from soupkit.text import counted


class MemoryWriter:
    """Takes pieces of output into tensors in memory, in any order and from several threads."""

    def __init__(self, plans: Sequence[TensorPlan]) -> None:
        self.tensors = {p.name: torch.empty(p.shape, dtype=getattr(torch, DTYPES[p.dtype].torch_name)) for p in plans}
        self._bytes = {name: tensor.reshape(-1).view(torch.uint8).numpy() for name, tensor in self.tensors.items()}

    def place(self, name: str, byte_start: int) -> int:
        """Return how far a byte of tensor `name` is from where its neighbours' alignment counts from."""
        return byte_start

    def write(self, name: str, byte_start: int, data: np.ndarray) -> None:
        """Write `data` (1-D uint8) from byte `byte_start` of tensor `name` on."""
        self._bytes[name][byte_start : byte_start + len(data)] = data

    def adjoins(self, name: str, byte_end: int, after: str) -> bool:
        """Whether a run of tensor `name` may go on in `after`: in itself alone, as tensors lie apart."""
        return name == after


def merge_to_memory(
    prepared: Prepared, device_name: str, threads: int | None, slab_bytes: int, progress: Progress
) -> dict[str, Tensor]:
    """Carry out a prepared merge and return its state dict, on the CPU, in the order of the output file.

    Raises CheckpointError and ArchitectureError as a merge to disk does.
    """
    device = choose_device(device_name)
    each = memory_of_a_worker(prepared.tensors, prepared.method, len(prepared.sources), device)
    chosen = choose_workers(prepared.sources, device, threads, Ranks())
    workers = fitting(Workers(chosen.count), each)  # threads: what forks write is theirs alone
    slabs = cut(prepared.tensors, slab_bytes)
    has_base = prepared.soup.base is not None
    share = SharedPass(Ranks(), workers.count, workers.forked)
    with one_thread_per_operation():
        known = of_the_model(Survey(prepared.method, slabs, prepared.sources, has_base, device, share))
    output = MemoryWriter(prepared.tensors)

    def make_worker(writers: Executor) -> SlabWorker:
        return SlabWorker(
            prepared.sources, output, writers, prepared.method, known, device,
            has_base=has_base, allow_nonfinite=prepared.allow_nonfinite,
        )  # fmt: skip

    total = sum(tensor.nbytes for tensor in output.tensors.values())
    progress.start(f"merging {counted(len(prepared.soup.ingredients), 'checkpoint')}", total, "B")
    Engine(make_worker, progress).run(slabs, workers)
    progress.finish()
    for source in prepared.sources:
        source.check_unchanged()
    return output.tensors
