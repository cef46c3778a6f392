"""Soups in a live model: its parameters are overwritten in one streaming pass, with the merge's own arithmetic.

The sum of the soup so far is kept, in the accumulator's dtype and in the order of acceptance; a trial adds one
ingredient, divides, rounds to the soup's dtype and writes the parameter. Bit for bit this is what `soupkit merge`
writes for the same ingredients in the same order. A soup with shares of its own has no use for the sum: it reads each
of its ingredients once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.device import available_memory
from soupkit.errors import ArchitectureError, StorageError
from soupkit.merging.arithmetic import Arithmetic
from soupkit.merging.live_model import fill_by, flattened, put
from soupkit.merging.parameters import resolve
from soupkit.merging.plan import TensorPlan, plan_tensors
from soupkit.merging.registry import METHODS
from soupkit.merging.tensor_runs import Reader, runs
from soupkit.search.candidate import Soup

_SPARE = 2 << 30  # bytes of the device's memory that are left to activations


class RunningSum:
    """Fills the tensors `live` with soups of `ingredients` and keeps the sum of one of them.

    Sums lie on the tensors' device where they fit beside `spare` bytes, else in host memory.
    """

    def __init__(
        self, live: Mapping[str, Tensor], ingredients: Sequence[Checkpoint], base: Checkpoint | None = None, *,
        spare: int = _SPARE,
    ) -> None:  # fmt: skip
        """Raises ArchitectureError where tensors are not the model's, StorageError without memory for the sum."""
        self._ingredients, self._base = ingredients, base
        self._live = live
        names = ingredients[0].tensors
        for odd in [n for n in self._live if n not in names] + [n for n in names if n not in self._live]:
            raise ArchitectureError(
                f"does not fit its config at {odd!r}", ingredients[0].ref, "say which model it is with --model NAME"
            )
        self.device = next(iter(self._live.values())).device
        self._uniform = METHODS.find("uniform")
        plans = self._plan(range(len(ingredients)))
        self.nbytes = sum(p.numel * p.accumulator.itemsize for p in plans if p.accumulator is not None)
        self.sum_device = self._choose_device(spare)
        self._arithmetic: dict[tuple[torch.dtype, torch.device], Arithmetic] = {}
        self._readers: dict[torch.device, Reader] = {}
        self._members: tuple[int, ...] = ()
        self._sums: dict[str, Tensor] = {}

    def _choose_device(self, spare: int) -> torch.device:
        """Return where the sums are to lie."""
        if self.device.type == "cuda" and torch.cuda.mem_get_info(self.device)[0] > self.nbytes + spare:
            return self.device
        free = available_memory()
        if free is not None and free < self.nbytes:
            raise StorageError(
                f"the running sum takes {self.nbytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB of memory are free",
                "memory",
                "use a machine with more memory",
            )
        return torch.device("cpu")

    def _plan(self, members: Sequence[int]) -> list[TensorPlan]:
        chosen = [self._ingredients[m] for m in members]
        return plan_tensors(self._uniform, chosen, None, {n: {} for n in chosen[0].tensors}, None)

    def fill(self, soup: Soup) -> None:
        """Write `soup` into the model. Raises CheckpointError where an ingredient cannot be read."""
        if soup.is_uniform:
            self._fill_uniform(soup.members)
            return
        self._sums, self._members = {}, ()  # room for what else is on the device
        chosen = [self._ingredients[m] for m in soup.members]
        method = METHODS.find(soup.method)
        parameters = resolve(method, soup.parameters, list(chosen[0].tensors), len(chosen))
        base = self._base if soup.has_base else None
        fill_by(method, self._live, chosen, base, parameters, self._reader(self.device))

    @torch.no_grad()
    def _fill_uniform(self, members: tuple[int, ...]) -> None:
        """Write the mean of `members`, summed in their order, into the model; the sum of all but the last is kept."""
        if len(members) > 1 and self._members != members[:-1]:
            self.keep(members[:-1])
        n = len(self._members)
        begun = n > 0 and members[:n] == self._members
        for plan in self._plan(members):
            if plan.accumulator is None:
                self._live[plan.name].copy_(self._ingredients[members[0]].read(plan.name))
                continue
            kept = self._sums.get(plan.name) if begun else None
            if kept is not None and kept.dtype != plan.accumulator:
                kept = None
            ops = self._ops(plan.accumulator, self.device)
            with flattened(self._live[plan.name]) as target:
                for run in self._runs(plan.name, ops.device):
                    ops.reset()
                    total = ops.take(run.stop - run.start) if kept is None else ops.copy(kept[run])
                    self._add(total, members if kept is None else members[n:], plan.name, run, ops, anew=kept is None)
                    put(target[run], plan, ops.divide(total, len(members)))

    @torch.no_grad()
    def keep(self, members: tuple[int, ...]) -> None:
        """Keep the sum of `members`: one more pass where it is the kept one and one ingredient more."""
        known, self._members = self._members, ()  # until all of it is kept
        if not known or known != members[:-1]:
            self._sums.clear()
        sums: dict[str, Tensor] = {}
        for plan in self._plan(members):
            if plan.accumulator is None:
                continue
            kept = self._sums.pop(plan.name, None)
            if kept is not None and kept.dtype != plan.accumulator:
                kept = None
            total = torch.empty(plan.numel, dtype=plan.accumulator, device=self.sum_device) if kept is None else kept
            ops = self._ops(plan.accumulator, self.sum_device)
            for run in self._runs(plan.name, ops.device):
                ops.reset()
                rest = members if kept is None else members[-1:]
                self._add(total[run], rest, plan.name, run, ops, anew=kept is None)
            sums[plan.name] = total
        self._sums, self._members = sums, members

    def _runs(self, name: str, device: torch.device) -> Iterator[slice]:
        return runs(self._ingredients, name, device, together=1)

    def _add(
        self, total: Tensor, members: Sequence[int], name: str, run: slice, ops: Arithmetic, *, anew: bool
    ) -> None:
        """Add a run of each of `members` to `total`, in their order; with `anew` what lies there does not count."""
        reader = self._reader(ops.device)
        for i, m in enumerate(members):
            stored = reader.read(i % 2, self._ingredients[m], name, run)
            if anew and i == 0:
                total.copy_(stored)
            else:
                ops.add(total, stored)

    @torch.no_grad()
    def products(self, gradients: Mapping[int, Tensor], block_of: Callable[[str], int], blocks: int) -> np.ndarray:
        """Return the inner product of each ingredient with a gradient by the live tensors, block by block of tensors:
        float64 [blocks, ingredients].

        `gradients` are by the address of the live tensor's memory; a tensor without one counts nothing. One run of one
        ingredient is held at a time.
        """
        found = torch.zeros(blocks, len(self._ingredients), dtype=torch.float64, device=self.device)
        reader = self._reader(self.device)
        for name, live in self._live.items():
            gradient = gradients.get(live.data_ptr()) if live.is_floating_point() and live.numel() else None
            if gradient is None:
                continue
            flat, block = gradient.reshape(-1), block_of(name)
            for run in self._runs(name, self.device):
                for m, ingredient in enumerate(self._ingredients):
                    stored = reader.read(m % 2, ingredient, name, run)
                    found[block, m] += torch.dot(flat[run].float(), stored.float())
        return found.cpu().numpy()

    def _ops(self, dtype: torch.dtype, device: torch.device) -> Arithmetic:
        return self._arithmetic.setdefault((dtype, device), Arithmetic(dtype, device))

    def _reader(self, device: torch.device) -> Reader:
        return self._readers.setdefault(device, Reader(device))

    @torch.no_grad()
    def differences(self, written: Checkpoint) -> list[str]:
        """Return the tensors whose live values are not, bit for bit, those of the file `written`."""
        reader = self._reader(self.device)

        def equal(name: str, live: Tensor) -> bool:
            return all(
                torch.equal(_bits(live[run]), _bits(reader.read(0, written, name, run).to(live.dtype)))
                for run in runs([written], name, self.device, together=1)
            )

        return [name for name, live in self._live.items() if not equal(name, live.reshape(-1))]


def _bits(x: Tensor) -> Tensor:
    return x.view(torch.uint8)
