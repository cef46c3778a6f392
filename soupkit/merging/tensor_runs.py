"""Runs of tensors' elements, read into memory that is used again and again: what is held at once is bounded, however
many ingredients there are and however large their tensors.

Reads are positioned: a file that shrinks under them is an error, where a view on a memory map would end the process.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.dtypes import DTYPES
from soupkit.merging.blocks import CPU_BLOCK, CUDA_BLOCK, block_size


def runs(
    sources: Sequence[Checkpoint], name: str, device: torch.device, *, together: int, whole: bool = False
) -> Iterator[slice]:
    """Cut tensor `name` into runs as long as a merge's blocks, of which `together` are held at once; `whole` does not
    cut it."""
    specs = [source.tensors[name] for source in sources]
    # A tensor that is not stored in row-major order is gathered anew by every read of a part of it.
    if whole or any(spec.strides is not None for spec in specs):
        step = max(1, specs[0].numel)
    else:
        # A trial of float32 ingredients on the CPU took 0.10 to 0.15 s with 512 Ki, 0.15 to 0.20 s with 1 Mi.
        step = block_size(CPU_BLOCK if device.type == "cpu" else CUDA_BLOCK, together)
    for start in range(0, specs[0].numel, step):
        yield slice(start, min(start + step, specs[0].numel))


class Reader:
    """Reads runs and takes them to `device`, by way of pinned memory where it is no CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._host: list[Tensor] = []
        self._there: list[Tensor] = []
        self._sent: list[torch.cuda.Event | None] = []

    def read(self, place: int, checkpoint: Checkpoint, name: str, run: slice) -> Tensor:
        """Return a run of tensor `name`, 1-D in its stored dtype, on the device; it lies in place number `place` (from
        0 on) until the next read into it. Raises CheckpointError as reading does."""
        spec = checkpoint.tensors[name]
        nbytes = (run.stop - run.start) * spec.itemsize
        self._make_room(place, nbytes)
        if (sent := self._sent[place]) is not None:
            sent.synchronize()  # the last run may still be on its way out of here
        read = self._host[place][:nbytes]
        checkpoint.read_into(name, run.start * spec.itemsize, read.numpy())
        if self.device.type != "cpu":
            there = self._there[place][:nbytes]
            there.copy_(read, non_blocking=True)
            self._sent[place] = torch.cuda.Event()
            self._sent[place].record(torch.cuda.current_stream(self.device))  # type: ignore[union-attr]
            read = there
        return read.view(getattr(torch, DTYPES[spec.dtype].torch_name))

    def _make_room(self, place: int, nbytes: int) -> None:
        while len(self._host) <= place:
            self._host.append(torch.empty(0, dtype=torch.uint8))
            self._there.append(torch.empty(0, dtype=torch.uint8))
            self._sent.append(None)
        if len(self._host[place]) < nbytes:
            far = self.device.type != "cpu"
            self._host[place] = torch.empty(nbytes, dtype=torch.uint8, pin_memory=far)
            if far:
                self._there[place] = torch.empty(nbytes, dtype=torch.uint8, device=self.device)
