"""The plan of a merge, made before any weight is read: what each output tensor is made of, where it goes, in which
pieces the work is cut."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.dtypes import BY_TORCH_NAME, DTYPES, widest
from soupkit.checkpoint.fingerprint import CHUNK_BYTES
from soupkit.errors import ArchitectureError, UsageError
from soupkit.merging.arithmetic import accumulator_dtype
from soupkit.merging.parameters import Resolved
from soupkit.merging.registry import MergeMethod

# What batch normalisation counts while training; no mean of it is meaningful, so the first ingredient's is kept.
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """How one output tensor is made: merged in `accumulator`, or copied from the first ingredient.

    `must_match` says that a copied tensor has to be the same in all ingredients, `whole` that the method sees all of it
    at once. `inputs` are the stored dtypes, one per ingredient and then the base's.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    numel: int
    inputs: tuple[str, ...]
    accumulator: torch.dtype | None
    parameters: Resolved
    must_match: bool
    whole: bool = False

    @property
    def itemsize(self) -> int:
        """Bytes per element of the output."""
        return DTYPES[self.dtype].itemsize

    @property
    def signature(self) -> tuple[object, ...]:
        """What tensors must share for their elements to be worked on in one run."""
        return (
            self.dtype,
            self.inputs,
            self.accumulator,
            tuple(sorted(self.parameters.items())),
            self.must_match,
            self.whole,
        )


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of elements of one tensor, `start` to `stop`."""

    tensor: TensorPlan
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Slab:
    """A slab: segments of like tensors, one after the other in the output. The unit of work, and of resuming."""

    segments: tuple[Segment, ...]

    @property
    def key(self) -> tuple[tuple[str, int, int], ...]:
        """What names the slab in a journal."""
        return tuple((s.tensor.name, s.start, s.stop) for s in self.segments)


def plan_tensors(
    method: MergeMethod,
    ingredients: Sequence[Checkpoint],
    base: Checkpoint | None,
    parameters: dict[str, Resolved],
    dtype: str | None,
) -> list[TensorPlan]:
    """Plan every output tensor, in the order of the output file.

    `dtype` is a torch name ("bfloat16") for all float tensors, or None for each tensor's own (the widest where
    ingredients differ). Wider elements come first, so that every tensor is aligned. Raises UsageError for a dtype that
    is no float, ArchitectureError for tensors that cannot be averaged.
    """
    if dtype is not None and not (dtype in BY_TORCH_NAME and BY_TORCH_NAME[dtype].is_float):
        floats = ", ".join(d.torch_name for d in DTYPES.values() if d.is_float)
        raise UsageError(f"{dtype!r} cannot be written: a soup holds floats", "--dtype", f"choose one of {floats}")
    sources = [*ingredients, base] if base is not None else list(ingredients)
    plans = []
    for name, spec in ingredients[0].tensors.items():
        inputs = tuple(source.tensors[name].dtype for source in sources)
        mergeable = {DTYPES[i].is_float for i in inputs}
        if mergeable == {True} and not name.endswith(_COUNTER):
            out = BY_TORCH_NAME[dtype].name if dtype else widest(set(inputs[: len(ingredients)]))
            accumulator = accumulator_dtype([getattr(torch, DTYPES[i].torch_name) for i in inputs])
            own = parameters[name]
            whole = method.sees_whole(own)
            plans.append(TensorPlan(name, out, spec.shape, spec.numel, inputs, accumulator, own, False, whole))
        else:
            _check_copy(name, inputs, ingredients)
            counter = name.endswith(_COUNTER)
            plans.append(TensorPlan(name, spec.dtype, spec.shape, spec.numel, inputs, None, {}, not counter))
    return sorted(plans, key=lambda p: -p.itemsize)


def _check_copy(name: str, inputs: tuple[str, ...], ingredients: Sequence[Checkpoint]) -> None:
    where = f"tensor {name!r}"
    if len(set(inputs[: len(ingredients)])) > 1:
        kinds = ", ".join(f"{i.ref}: {d}" for i, d in zip(ingredients, inputs, strict=False))
        raise ArchitectureError(
            f"holds different kinds of numbers ({kinds})", where, "integers and booleans are copied: they must agree"
        )


def cut(plans: Sequence[TensorPlan], slab_bytes: int) -> list[Slab]:
    """Cut the work into slabs of about `slab_bytes` of output.

    A tensor is only cut where every source has a chunk of its fingerprint end, so that each chunk is hashed by one
    worker while its bytes pass. Those that the method sees whole are not cut at all.
    """
    slabs: list[Slab] = []
    run: list[Segment] = []
    filled = 0

    def flush() -> None:
        nonlocal run, filled
        if run:
            slabs.append(Slab(tuple(run)))
        run, filled = [], 0

    for plan in plans:
        alone = plan.whole
        if run and (run[-1].tensor.signature != plan.signature or alone):
            flush()
        for segment in _segments(plan, slab_bytes, alone):
            run.append(segment)
            filled += (segment.stop - segment.start) * plan.itemsize
            if filled >= slab_bytes or alone:
                flush()
    flush()
    return slabs


def _segments(plan: TensorPlan, slab_bytes: int, alone: bool) -> Iterator[Segment]:
    if alone and plan.numel:
        yield Segment(plan, 0, plan.numel)
        return
    # Whole chunks of the widest-chunked dtype are whole chunks of all: every chunk is 16 MiB, every itemsize 2^k.
    quantum = CHUNK_BYTES // min(DTYPES[d].itemsize for d in (*plan.inputs, plan.dtype))
    step = max(1, slab_bytes // (quantum * plan.itemsize)) * quantum
    for start in range(0, plan.numel, step):
        yield Segment(plan, start, min(start + step, plan.numel))


def output_specs(plans: Sequence[TensorPlan]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the output's tensors as the writer needs them: name -> (dtype, shape), in the order of the file."""
    return {p.name: (p.dtype, p.shape) for p in plans}
