"""One worker: buffers for one block of every source, the arithmetic, and the way a block takes through them.

read (positioned reads into host memory) -> hash -> to the device -> method -> back -> hash -> write. A worker has two
slots, so that one block is worked on while the other is written, by a thread of the writers' own. On a GPU it has its
own stream and three slots: one block is read, one is on the device, one is written.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.dtypes import DTYPES
from soupkit.checkpoint.fingerprint import ChunkHashes
from soupkit.checkpoint.finite import all_finite
from soupkit.checkpoint.writer import PAGE
from soupkit.errors import ArchitectureError, CheckpointError
from soupkit.merging.arithmetic import Arithmetic, AtHand
from soupkit.merging.blocks import CPU_BLOCK, CUDA_BLOCK, block_size, blocks
from soupkit.merging.calling import call
from soupkit.merging.journal import SlabResult
from soupkit.merging.plan import Segment, Slab, TensorPlan
from soupkit.merging.registry import MergeMethod


class Output(Protocol):
    """Where pieces of merged tensors go: files (`checkpoint.writer.TensorWriter`) or memory. Several threads use it."""

    def place(self, name: str, byte_start: int) -> int:
        """Return where byte `byte_start` of tensor `name` lies, counted from the start of a page."""

    def write(self, name: str, byte_start: int, data: np.ndarray) -> None:
        """Write `data` (1-D uint8) from byte `byte_start` of tensor `name` on."""

    def adjoins(self, name: str, byte_end: int, after: str) -> bool:
        """Whether what is written at the end of `name` may run into tensor `after`, or goes on in `name` itself."""


@dataclass(slots=True)
class Slot:
    """Memory for one block: a host buffer per source and one for the output (uint8), and the device's counterparts.

    `host_out` begins at a page, and `out` is the part of it that the block at hand fills: as far from a page's start as
    its place in the file.
    """

    host_in: list[Tensor]
    host_out: Tensor
    device_in: list[Tensor]
    device_out: Tensor
    arithmetic: dict[torch.dtype, Arithmetic]
    out: Tensor
    done: "torch.cuda.Event | None" = None
    writing: "Future[None] | None" = None
    block: tuple[Segment, ...] = ()
    hashes: "list[list[ChunkHashes]]" = field(default_factory=list)


class SlabWorker:
    """What one worker thread works with. `run` takes a slab from the sources to the output."""

    def __init__(
        self,
        sources: Sequence[Checkpoint],
        writer: Output,
        writers: Executor,
        method: MergeMethod,
        of_the_model: Mapping[str, Any],
        device: torch.device,
        *,
        has_base: bool,
        allow_nonfinite: bool,
    ) -> None:
        self.sources = sources
        self.writer = writer
        self.writers = writers
        self.method = method
        self.of_the_model = of_the_model
        self.device = device
        self.has_base = has_base
        self.allow_nonfinite = allow_nonfinite
        self.on_gpu = device.type == "cuda"
        self.block = block_size(CUDA_BLOCK if self.on_gpu else CPU_BLOCK, len(sources))
        self.stream = torch.cuda.Stream(device) if self.on_gpu else None
        self._slots: list[Slot] = []
        self._capacity = (0, 0)

    def run(self, slab: Slab) -> SlabResult:
        """Merge one slab. Raises CheckpointError, ArchitectureError or StorageError, each with the tensor's name."""
        plan = slab.segments[0].tensor
        whole = plan.whole
        size = plan.numel if whole else self.block
        self._fit(plan, size)
        # With a shorter first block the others begin at a page of the output, and can go past the page cache whole.
        first = size if whole else size - self._page_offset(slab.segments[0]) // plan.itemsize
        hashes = [[ChunkHashes() for _ in range(len(self.sources) + 1)] for _ in slab.segments]
        slots = self._slots
        i = 0
        with torch.inference_mode(), torch.cuda.stream(self.stream) if self.stream is not None else nullcontext():
            for i, block in enumerate(blocks(slab, size, first)):
                slot = slots[i % len(slots)]
                self._settle(slot)
                self._begin(slot, tuple(s for _, s in block))
                slot.hashes = [hashes[k] for k, _ in block]
                self._read(slot)
                self._compute(slot)
                # A device works on this block while the one before it is hashed, and the next one is read.
                self._finish(slots[(i - self.on_gpu) % len(slots)])
            self._finish(slots[i % len(slots)])
        for slot in slots:
            self._settle(slot)
        for states in hashes:
            for state in states:
                state.end()
        return SlabResult(tuple(tuple(tuple(state.digests) for state in states) for states in hashes))

    def _fit(self, plan: TensorPlan, size: int) -> None:
        """Make the slots large enough for blocks of `size` elements of tensors like `plan`."""
        widest = max(DTYPES[d].itemsize for d in plan.inputs)
        need = (size * widest, size * plan.itemsize)
        if self._slots and need[0] <= self._capacity[0] and need[1] <= self._capacity[1]:
            return
        self._capacity = (max(need[0], self._capacity[0]), max(need[1], self._capacity[1]))
        self._slots = []  # the old memory goes before the new is taken
        self._slots = [self._slot(*self._capacity)]
        if self.on_gpu:
            self._slots += [self._slot(*self._capacity) for _ in range(2)]
        else:
            # A block is read only when the one before it has been merged: its memory is in the processor's caches.
            self._slots.append(self._slot(*self._capacity, self._slots[0]))

    def _slot(self, nbytes_in: int, nbytes_out: int, shared: Slot | None = None) -> Slot:
        """Make a slot, which shares all but the output's memory with `shared`, where that is given."""

        def host(n: int) -> Tensor:
            return torch.empty(n, dtype=torch.uint8, pin_memory=self.on_gpu)

        host_out = host(nbytes_out + 2 * PAGE)
        host_out = host_out[-host_out.data_ptr() % PAGE :]
        if shared is not None:
            return Slot(shared.host_in, host_out, shared.device_in, host_out, shared.arithmetic, host_out)
        host_in = [host(nbytes_in) for _ in self.sources]
        if not self.on_gpu:
            return Slot(host_in, host_out, host_in, host_out, {}, host_out)
        device_in = [torch.empty(nbytes_in, dtype=torch.uint8, device=self.device) for _ in self.sources]
        device_out = torch.empty(nbytes_out, dtype=torch.uint8, device=self.device)
        return Slot(host_in, host_out, device_in, device_out, {}, host_out)

    def _page_offset(self, segment: Segment) -> int:
        return self.writer.place(segment.tensor.name, segment.start * segment.tensor.itemsize) % PAGE

    def _begin(self, slot: Slot, block: tuple[Segment, ...]) -> None:
        """Give `slot` its next block, and the block its place in the output's buffer."""
        start = self._page_offset(block[0])
        nbytes = sum((s.stop - s.start) * s.tensor.itemsize for s in block)
        slot.block, slot.out = block, slot.host_out[start : start + nbytes]

    def _read(self, slot: Slot) -> None:
        for source, (checkpoint, buffer) in enumerate(zip(self.sources, slot.host_in, strict=True)):
            array, position = buffer.numpy(), 0
            for segment, states in zip(slot.block, slot.hashes, strict=True):
                itemsize = DTYPES[segment.tensor.inputs[source]].itemsize
                piece = array[position : position + (segment.stop - segment.start) * itemsize]
                checkpoint.read_into(segment.tensor.name, segment.start * itemsize, piece)
                states[source].feed(piece)
                position += len(piece)

    def _inputs(self, slot: Slot, buffers: Sequence[Tensor]) -> list[Tensor]:
        """View `buffers` as the block's elements, in each source's dtype."""
        n = sum(s.stop - s.start for s in slot.block)
        return [
            buffer[: n * DTYPES[name].itemsize].view(getattr(torch, DTYPES[name].torch_name))
            for buffer, name in zip(buffers, slot.block[0].tensor.inputs, strict=True)
        ]

    def _compute(self, slot: Slot) -> None:
        plan = slot.block[0].tensor
        host = self._inputs(slot, slot.host_in)
        out = slot.out
        if plan.accumulator is None:
            self._copy(slot, host, out)
            return
        tensors, result = host, out
        if self.on_gpu:
            tensors = self._inputs(slot, slot.device_in)
            for there, here in zip(tensors, host, strict=True):
                there.copy_(here, non_blocking=True)
            result = slot.device_out[: out.numel()]
        if plan.accumulator not in slot.arithmetic:
            slot.arithmetic[plan.accumulator] = Arithmetic(plan.accumulator, self.device)
        ops = slot.arithmetic[plan.accumulator]
        target = result.view(getattr(torch, DTYPES[plan.dtype].torch_name))
        at_hand = AtHand(tuple((s.tensor.name, s.start, s.stop) for s in slot.block), target)
        merged = call(self.method, plan, self.of_the_model, ops, tensors, at_hand, has_base=self.has_base)
        if merged.data_ptr() != target.data_ptr():
            target.copy_(merged)
        if self.on_gpu:
            out.copy_(result, non_blocking=True)
            slot.done = torch.cuda.Event()
            slot.done.record()

    def _copy(self, slot: Slot, host: list[Tensor], out: Tensor) -> None:
        """Copy the first ingredient's integers or booleans, once they are seen to be the same in all."""
        ingredients = host[:-1] if self.has_base else host
        for checkpoint, other in zip(self.sources, ingredients, strict=False):
            if slot.block[0].tensor.must_match and not torch.equal(other, ingredients[0]):
                names = ", ".join(s.tensor.name for s in slot.block)
                raise ArchitectureError(
                    f"holds other integers than {self.sources[0].ref}",
                    f"{checkpoint.ref}, tensor {names}",
                    "integers and booleans are copied, so they must be the same in all ingredients",
                )
        out.copy_(ingredients[0].view(torch.uint8))

    def _finish(self, slot: Slot) -> None:
        """Wait for the device, then hash the block in `slot`, if there is one, and have it written."""
        if not slot.block:
            return
        if slot.done is not None:
            slot.done.synchronize()
            slot.done = None
        self._check(slot)
        array, position = slot.out.numpy(), 0
        first, begin = slot.block[0], 0
        runs = []
        for segment, states in zip(slot.block, slot.hashes, strict=True):
            n = (segment.stop - segment.start) * segment.tensor.itemsize
            states[-1].feed(array[position : position + n])
            if not self.writer.adjoins(
                first.tensor.name, first.start * first.tensor.itemsize + position - begin, segment.tensor.name
            ):
                runs.append((first, array[begin:position]))
                first, begin = segment, position
            position += n
        runs.append((first, array[begin:position]))
        slot.writing = self.writers.submit(self._write, runs)
        slot.block, slot.hashes = (), []

    def _write(self, runs: list[tuple[Segment, np.ndarray]]) -> None:
        for first, data in runs:
            self.writer.write(first.tensor.name, first.start * first.tensor.itemsize, data)

    def _settle(self, slot: Slot) -> None:
        """Wait until the block that `slot` held is written."""
        if slot.writing is not None:
            slot.writing.result()
            slot.writing = None

    def _has_nonfinite_input(self, slot: Slot) -> bool:
        """Whether a source has NaN or infinity in this block, of which a method that selects may leave no trace."""
        n = sum(s.stop - s.start for s in slot.block)
        names = slot.block[0].tensor.inputs
        return not all(
            all_finite(buffer[: n * DTYPES[name].itemsize].numpy(), name)
            for buffer, name in zip(slot.host_in, names, strict=True)
        )

    def _check(self, slot: Slot) -> None:
        """Raise CheckpointError for a merged block that is not finite, with the tensor and the ingredient to blame."""
        plan = slot.block[0].tensor
        if plan.accumulator is None or self.allow_nonfinite:
            return
        if all_finite(slot.out.numpy(), plan.dtype) and not (self.method.selects and self._has_nonfinite_input(slot)):
            return
        out = slot.out.view(getattr(torch, DTYPES[plan.dtype].torch_name))
        sources, position = self._inputs(slot, slot.host_in), 0
        for segment in slot.block:
            here = slice(position, position + segment.stop - segment.start)
            position = here.stop
            if bool(torch.isfinite(out[here]).all()) and not self.method.selects:
                continue
            for checkpoint, values in zip(self.sources, sources, strict=True):
                if not bool(torch.isfinite(values[here]).all()):
                    raise CheckpointError(
                        "has non-finite weights (NaN or infinity)",
                        f"{checkpoint.ref}, tensor {segment.tensor.name!r}",
                        "leave this ingredient out, or let them through with --allow-nonfinite",
                    )
            if bool(torch.isfinite(out[here]).all()):
                continue
            raise CheckpointError(
                f"is not finite in {DTYPES[plan.dtype].torch_name} when finite weights are merged",
                f"tensor {segment.tensor.name!r}",
                "the weights are too large for the sum or for the output's dtype; choose a wider --dtype",
            )
