"""How much memory a merge takes, known before a weight is read."""

from collections.abc import Sequence

import torch

from soupkit.checkpoint.dtypes import DTYPES
from soupkit.device import available_memory
from soupkit.merging.arithmetic import CPU_RUN, CUDA_RUN
from soupkit.merging.blocks import CPU_BLOCK, CUDA_BLOCK, block_size
from soupkit.merging.engine import Workers
from soupkit.merging.plan import TensorPlan
from soupkit.merging.registry import MergeMethod

# Runs that a formula holds besides one per source; the most is the election of signs.
_RUNS = 6


def memory_of_a_worker(plans: Sequence[TensorPlan], method: MergeMethod, sources: int, device: torch.device) -> int:
    """Return the bytes that one worker holds at most: of a block, or of the largest tensor that the method sees whole.

    On a GPU as much lies on the host as on the device.
    """
    on_gpu = device.type == "cuda"
    block = block_size(CUDA_BLOCK if on_gpu else CPU_BLOCK, sources)
    run = CUDA_RUN if on_gpu else CPU_RUN
    most = 0
    for plan in plans:
        elements = plan.numel if plan.whole else min(plan.numel, block)
        stored = sum(DTYPES[d].itemsize for d in plan.inputs) + 2 * plan.itemsize  # one block is written meanwhile
        accumulator = plan.accumulator.itemsize if plan.accumulator is not None else 0
        copies = method.holds + method.holds_each * sources if plan.whole else 1
        runs = (sources + _RUNS) * min(run, plan.numel)
        most = max(most, elements * (stored + copies * accumulator) + runs * accumulator)
    return most


def fitting(workers: Workers, each: int) -> Workers:
    """Return as many workers as half of the free memory holds, at least one, where each takes `each` bytes."""
    free = available_memory()
    if free is None or not each:
        return workers
    count = max(1, min(workers.count, free // 2 // each))
    return workers if count == workers.count else Workers(count, workers.forked and count > 1)
