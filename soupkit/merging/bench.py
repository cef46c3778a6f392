"""One worker's bench: buffers for one block of every source, the arithmetic, and the way a block takes through them.

read (positioned reads into host memory) -> hash -> to the device -> method -> back -> hash -> write. On a GPU a bench
has two slots, so that one block is read and written while the other is on the device, and its own stream.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
import xxhash
from torch import Tensor

from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.dtypes import DTYPES
from soupkit.checkpoint.fingerprint import CHUNK_BYTES
from soupkit.checkpoint.writer import TensorWriter
from soupkit.errors import ArchitectureError, CheckpointError
from soupkit.merging.arithmetic import Arithmetic
from soupkit.merging.journal import TaskResult
from soupkit.merging.plan import Segment, Task, TensorPlan
from soupkit.merging.registry import MergeMethod

# Elements per block on the CPU. Small blocks drown in interpreter overhead, large ones leave the processor's cache: a
# uniform merge of three bf16 ViT-bigG-14 on two cores took 4.0 s with 256 Ki and 512 Ki, 4.5 s with 128 Ki, 6.0 s with
# 1 Mi. Positioned reads into such blocks cost about what faults on a memory map do, and a file that shrinks under them
# is an error where a map would end the process.
CPU_BLOCK = 1 << 19
CUDA_BLOCK = 1 << 23


def blocks(task: Task, size: int) -> Iterator[tuple[tuple[int, Segment], ...]]:
    """Cut a task into runs of at most `size` elements, each piece with the number of the segment that it is of.

    Short segments share a run; a piece that does not begin its segment begins at a multiple of `size` in it, so no
    piece crosses a chunk's end.
    """
    run: list[tuple[int, Segment]] = []
    filled = 0
    for i, segment in enumerate(task.segments):
        length = segment.stop - segment.start
        if filled + length > size and run:
            yield tuple(run)
            run, filled = [], 0
        if length > size:
            for start in range(segment.start, segment.stop, size):
                yield ((i, Segment(segment.tensor, start, min(start + size, segment.stop))),)
        else:
            run.append((i, segment))
            filled += length
    if run:
        yield tuple(run)


# The integer that the bits of infinity are: in a float's integer view all greater ones are NaN.
_INFINITY = {"F64": 0x7FF0000000000000, "F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}


def all_finite(data: np.ndarray, plan: TensorPlan) -> bool:
    """Whether floats of the plan's dtype in `data` (1-D uint8) hold no NaN and no infinity.

    Two maxima over the bits as integers: signed ones put positive values on top, unsigned ones negative values. Several
    times faster than looking at floats, for bfloat16 most of all.
    """
    infinity, sign = _INFINITY[plan.dtype], 1 << (8 * plan.itemsize - 1)
    if not len(data):
        return True
    positive, negative = data.view(f"i{plan.itemsize}").max(), data.view(f"u{plan.itemsize}").max()
    return bool(positive < infinity and negative < infinity + sign)


class ChunkHashes:
    """Digests of the chunks of one source's segments, fed in order."""

    def __init__(self) -> None:
        self._state = xxhash.xxh3_128()
        self._fed = 0
        self.digests: list[bytes] = []

    def feed(self, data: np.ndarray) -> None:
        """Add bytes (1-D uint8) that do not cross a chunk's end unless they begin at a chunk's start."""
        for start in range(0, len(data), CHUNK_BYTES):
            piece = data[start : start + CHUNK_BYTES]
            self._state.update(piece)
            self._fed += len(piece)
            if self._fed == CHUNK_BYTES:
                self.end()

    def end(self) -> None:
        """Close the chunk at hand, where there is one (the last of a tensor may be short)."""
        if self._fed:
            self.digests.append(self._state.digest())
            self._state.reset()
            self._fed = 0


@dataclass(slots=True)
class Slot:
    """Memory for one block: a host buffer per source and one for the output (uint8), and the device's counterparts."""

    host_in: list[Tensor]
    host_out: Tensor
    device_in: list[Tensor]
    device_out: Tensor
    arithmetic: dict[torch.dtype, Arithmetic]
    done: "torch.cuda.Event | None" = None
    block: tuple[Segment, ...] = ()
    hashes: "list[list[ChunkHashes]]" = field(default_factory=list)


class Bench:
    """What one worker thread works with. `run` takes a task from the sources to the output."""

    def __init__(
        self,
        sources: Sequence[Checkpoint],
        writer: TensorWriter,
        method: MergeMethod,
        device: torch.device,
        *,
        has_base: bool,
        allow_nonfinite: bool,
    ) -> None:
        self.sources = sources
        self.writer = writer
        self.method = method
        self.device = device
        self.has_base = has_base
        self.allow_nonfinite = allow_nonfinite
        self.on_gpu = device.type == "cuda"
        self.block = CUDA_BLOCK if self.on_gpu else CPU_BLOCK
        self.stream = torch.cuda.Stream(device) if self.on_gpu else None
        self._slots: list[Slot] = []
        self._capacity = (0, 0)

    def another(self) -> "Bench":
        """Return a bench for the same merge with memory of its own."""
        return Bench(
            self.sources,
            self.writer,
            self.method,
            self.device,
            has_base=self.has_base,
            allow_nonfinite=self.allow_nonfinite,
        )

    def run(self, task: Task) -> TaskResult:
        """Merge one task. Raises CheckpointError, ArchitectureError or StorageError, each with the tensor's name."""
        plan = task.segments[0].tensor
        whole = self.method.scope == "tensor" and plan.accumulator is not None
        size = max(s.stop - s.start for s in task.segments) if whole else self.block
        self._fit(plan, size)
        hashes = [[ChunkHashes() for _ in range(len(self.sources) + 1)] for _ in task.segments]
        slots = self._slots
        with torch.inference_mode(), torch.cuda.stream(self.stream) if self.stream is not None else nullcontext():
            for i, block in enumerate(blocks(task, size)):
                slot = slots[i % len(slots)]
                self._finish(slot)
                slot.block, slot.hashes = tuple(s for _, s in block), [hashes[k] for k, _ in block]
                self._read(slot)
                self._compute(slot)
                if not self.on_gpu:
                    self._finish(slot)
            for k in range(1, len(slots) + 1):  # the oldest block first: a chunk's bytes are hashed in order
                self._finish(slots[(i + k) % len(slots)])
        for states in hashes:
            for state in states:
                state.end()
        return TaskResult(tuple(tuple(tuple(state.digests) for state in states) for states in hashes))

    def _fit(self, plan: TensorPlan, size: int) -> None:
        """Make the slots large enough for blocks of `size` elements of tensors like `plan`."""
        widest = max(DTYPES[d].itemsize for d in plan.inputs)
        need = (size * widest, size * plan.itemsize)
        if self._slots and need[0] <= self._capacity[0] and need[1] <= self._capacity[1]:
            return
        self._capacity = (max(need[0], self._capacity[0]), max(need[1], self._capacity[1]))
        self._slots = []  # the old memory goes before the new is taken
        self._slots = [self._slot(*self._capacity) for _ in range(2 if self.on_gpu else 1)]

    def _slot(self, nbytes_in: int, nbytes_out: int) -> Slot:
        def host(n: int) -> Tensor:
            return torch.empty(n, dtype=torch.uint8, pin_memory=self.on_gpu)

        host_in, host_out = [host(nbytes_in) for _ in self.sources], host(nbytes_out)
        if not self.on_gpu:
            return Slot(host_in, host_out, host_in, host_out, {})
        device_in = [torch.empty(nbytes_in, dtype=torch.uint8, device=self.device) for _ in self.sources]
        device_out = torch.empty(nbytes_out, dtype=torch.uint8, device=self.device)
        return Slot(host_in, host_out, device_in, device_out, {})

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
        out = slot.host_out[: host[0].numel() * plan.itemsize]
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
        ops.reset()
        ingredients, base = (tensors[:-1], tensors[-1]) if self.has_base else (tensors, None)
        merged = result.view(getattr(torch, DTYPES[plan.dtype].torch_name))
        merged.copy_(self.method.function(ops, ingredients, base, **plan.parameters))
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
                    f"integer tensors differ from those of {self.sources[0].ref}",
                    f"{checkpoint.ref}, tensor {names}",
                    "integers and booleans are copied, so they must be the same in all ingredients",
                )
        out.copy_(ingredients[0].view(torch.uint8))

    def _finish(self, slot: Slot) -> None:
        """Wait for the device, then hash and write the block in `slot`, if there is one."""
        if not slot.block:
            return
        if slot.done is not None:
            slot.done.synchronize()
            slot.done = None
        self._check(slot)
        array, position = slot.host_out.numpy(), 0
        first, filled = slot.block[0], 0
        for segment, states in zip(slot.block, slot.hashes, strict=True):
            n = (segment.stop - segment.start) * segment.tensor.itemsize
            states[-1].feed(array[position : position + n])
            if not self.writer.adjoins(
                first.tensor.name, first.start * first.tensor.itemsize + filled, segment.tensor.name
            ):
                self._write(first, array[position - filled : position])
                first, filled = segment, 0
            position += n
            filled += n
        self._write(first, array[position - filled : position])
        slot.block, slot.hashes = (), []

    def _write(self, first: Segment, data: np.ndarray) -> None:
        self.writer.write(first.tensor.name, first.start * first.tensor.itemsize, data)

    def _check(self, slot: Slot) -> None:
        """Raise CheckpointError for a merged block that is not finite, with the tensor and the ingredient to blame."""
        n = sum(s.stop - s.start for s in slot.block)
        plan = slot.block[0].tensor
        if (
            plan.accumulator is None
            or self.allow_nonfinite
            or all_finite(slot.host_out.numpy()[: n * plan.itemsize], plan)
        ):
            return
        out = slot.host_out[: n * plan.itemsize].view(getattr(torch, DTYPES[plan.dtype].torch_name))
        sources, position = self._inputs(slot, slot.host_in), 0
        for segment in slot.block:
            here = slice(position, position + segment.stop - segment.start)
            position = here.stop
            if bool(torch.isfinite(out[here]).all()):
                continue
            for checkpoint, values in zip(self.sources, sources, strict=True):
                if not bool(torch.isfinite(values[here]).all()):
                    raise CheckpointError(
                        "has non-finite weights (NaN or infinity)",
                        f"{checkpoint.ref}, tensor {segment.tensor.name!r}",
                        "leave this ingredient out, or let them through with --allow-nonfinite",
                    )
            raise CheckpointError(
                f"the merge of finite weights is not finite in {DTYPES[plan.dtype].torch_name}",
                f"tensor {segment.tensor.name!r}",
                "the weights are too large for the sum or for the output's dtype; choose a wider --dtype",
            )
