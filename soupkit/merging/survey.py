"""Passes over what is merged, before it is merged: what a method has to know of the whole model, without holding it."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import fsum
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.errors import UsageError
from soupkit.merging.arithmetic import Arithmetic, AtHand, Magnitude
from soupkit.merging.calling import LINES_ALPHA, call
from soupkit.merging.forks import run_in_forks
from soupkit.merging.plan import Slab, TensorPlan
from soupkit.merging.registry import MergeMethod
from soupkit.merging.selection import Selection
from soupkit.merging.sums import SUM_BLOCK, Terms, block_sums
from soupkit.merging.tensor_runs import Reader
from soupkit.progress import SILENT, Progress
from soupkit.ranks import Ranks

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Seen:
    """A run of one tensor: its plan, its elements of each source in their stored dtypes (1-D, the base's last), and an
    arithmetic whose memory is free."""

    plan: TensorPlan
    stored: list[Tensor]
    ops: Arithmetic
    at_hand: AtHand


Look = Callable[[Seen], T]


class Pass(Protocol):
    """Does jobs, in any order and by any number of workers, and returns their results in the jobs' order."""

    def __call__(self, worker: Callable[[], Callable[[int], T]], jobs: int) -> list[T]: ...  # noqa: D102


def one_after_the_other(worker: Callable[[], Callable[[int], T]], jobs: int) -> list[T]:
    """The pass of one worker."""
    do = worker()
    return [do(i) for i in range(jobs)]


@dataclass(frozen=True, slots=True)
class SharedPass:
    """A pass by all ranks, each with `count` workers: threads, or forks of the process."""

    ranks: Ranks
    count: int
    forked: bool

    def __call__(self, worker: Callable[[], Callable[[int], T]], jobs: int) -> list[T]:
        """Raises what a job raises, on every rank."""
        mine = range(jobs)[self.ranks.rank :: self.ranks.size]
        parts = self.ranks.gather(self.ranks.together(self._do, worker, mine))
        results = {job: result for part in parts for job, result in part.items()}
        return [results[job] for job in range(jobs)]

    def _do(self, worker: Callable[[], Callable[[int], T]], mine: Sequence[int]) -> dict[int, T]:
        results: dict[int, T] = {}
        if self.forked:

            @contextmanager
            def in_fork() -> Any:
                do = worker()
                yield lambda i: do(mine[i])

            run_in_forks(self.count, len(mine), in_fork, lambda i, result: results.update({mine[i]: result}))
            return results
        count = max(1, min(self.count, len(mine)))

        def work(share: int) -> dict[int, T]:
            do = worker()
            return {job: do(job) for job in mine[share::count]}

        with ThreadPoolExecutor(count, thread_name_prefix="survey") as pool:
            for part in pool.map(work, range(count)):
                results.update(part)
        return results


class Survey:
    """What a survey of the model sees: `method`, and passes over all tensors that are merged."""

    def __init__(
        self,
        method: MergeMethod,
        slabs: Sequence[Slab],
        sources: Sequence[Checkpoint],
        has_base: bool,
        device: torch.device,
        share: Pass = one_after_the_other,
        progress: Progress = SILENT,
    ) -> None:
        self.method = method
        self.slabs = [s for s in slabs if s.segments[0].tensor.accumulator is not None]
        self.plans = list({s.tensor.name: s.tensor for slab in self.slabs for s in slab.segments}.values())
        self.sources = sources
        self.has_base = has_base
        self.device = device
        self.elements = sum(p.numel for p in self.plans)
        self.width = max((8 * p.accumulator.itemsize for p in self.plans if p.accumulator is not None), default=32)
        self._share = share
        self._progress = progress

    def setting(self, name: str) -> Any:
        """Return the value that parameter `name` has in all tensors. Raises UsageError where it has several."""
        values = {p.parameters[name] for p in self.plans}
        if len(values) > 1:
            raise UsageError(
                "has several values, and counts for the whole model", f"parameter {name}", "give one for all tensors"
            )
        return next(iter(values), None)

    def fold(self, look: Look[T], add: Callable[[T, T], T]) -> T | None:
        """Return what `add` makes of all that `look` says of runs of tensors; None where nothing is merged.

        Runs are of a block of sums' size, or whole tensors where the method sees those. `add` must not mind the order.
        """

        def worker() -> Callable[[int], T]:
            reader = Reader(self.device)
            arithmetic: dict[torch.dtype, Arithmetic] = {}

            def do(job: int) -> T:
                total: Any = None
                for seen in self._runs(self.slabs[job], reader, arithmetic):
                    said = look(seen)
                    total = said if total is None else add(total, said)
                return total

            return do

        total: Any = None
        for said in self._share(worker, len(self.slabs)):
            total = said if total is None else total if said is None else add(total, said)
        return total

    def _runs(self, slab: Slab, reader: Reader, arithmetic: dict[torch.dtype, Arithmetic]) -> Any:
        for segment in slab.segments:
            plan = segment.tensor
            assert plan.accumulator is not None
            ops = arithmetic.setdefault(plan.accumulator, Arithmetic(plan.accumulator, self.device))
            step = max(1, plan.numel) if plan.whole else SUM_BLOCK
            for start in range(segment.start, segment.stop, step):
                run = slice(start, min(start + step, segment.stop))
                stored = [reader.read(i, source, plan.name, run) for i, source in enumerate(self.sources)]
                at_hand = AtHand(((plan.name, run.start, run.stop),))
                ops.begin(at_hand)
                with torch.inference_mode():
                    yield Seen(plan, stored, ops, at_hand)

    def largest(self, ranks: Sequence[int], magnitudes: Callable[[Arithmetic], Sequence[Magnitude]]) -> list[float]:
        """Return the number of rank `ranks[i]` (1: the largest) among those that `magnitudes(ops)[i]` makes, over all
        elements of the model. Takes two passes, four where a tensor is accumulated in float64."""
        selections = [Selection(rank, self.width) for rank in ranks]

        def look(seen: Seen) -> list[np.ndarray]:
            return [
                seen.ops.count([selection], magnitude, seen.stored)[0]
                for selection, magnitude in zip(selections, magnitudes(seen.ops), strict=True)
            ]

        while selections and not all(s.settled for s in selections):
            counts = self.fold(look, lambda one, other: [a + b for a, b in zip(one, other, strict=True)])
            for selection, counted in zip(selections, counts or (), strict=True):
                selection.settle(counted)
        return [s.value for s in selections]

    def total(self, terms: Callable[[Seen], tuple[Terms, list[Tensor]]]) -> list[float]:
        """Return the sums over all elements of the model: `terms(seen)` gives a function of runs in float64, which
        makes the vectors that are summed, and the tensors that it gets runs of."""

        def look(seen: Seen) -> list[list[float]]:
            return block_sums(*terms(seen))

        parts = self.fold(look, lambda one, other: [a + b for a, b in zip(one, other, strict=True)])
        return [fsum(part) for part in parts or ()]


def of_the_model(survey: Survey) -> dict[str, Any]:
    """Return what the method's surveys make, by the names of its arguments, and what its layer rule begins with."""
    known = {name: make(survey) for name, make in survey.method.surveys.items()}
    by_layer = any(p.parameters.get("lines") is not None for p in survey.plans)
    if by_layer and survey.setting(LINES_ALPHA) is None:
        known[LINES_ALPHA] = _lines_alpha(survey, known)
    return known


def _lines_alpha(survey: Survey, known: Mapping[str, Any]) -> float:
    """Return norm(sum of task vectors) / (N norm(merged task vector)) over the model (LiNeS, Wang et al. 2024)."""

    def terms(seen: Seen) -> tuple[Terms, list[Tensor]]:
        plan = _without_lines(seen.plan)
        merged = call(survey.method, plan, known, seen.ops, seen.stored, seen.at_hand, has_base=True)

        def squares(here: list[Tensor]) -> list[Tensor]:
            *ingredients, base, whole = here
            total = sum((x - base for x in ingredients[1:]), ingredients[0] - base)
            return [total.square_(), whole.sub_(base).square_()]

        return squares, [*seen.stored, merged]

    n = len(survey.sources) - 1
    summed, merged = survey.total(terms)
    return (summed**0.5) / (n * merged**0.5) if merged else 1.0


def _without_lines(plan: TensorPlan) -> TensorPlan:
    """Return the plan without its layer rule."""
    return replace(plan, parameters={**plan.parameters, "lines": None})
