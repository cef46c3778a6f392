"""Soups in a live model: its parameters are overwritten in one streaming pass, with the merge's own arithmetic.

The sum of the soup so far is kept, in the accumulator's dtype and in the order of acceptance; a trial adds one
ingredient, divides, rounds to the soup's dtype and writes the parameter. Bit for bit this is what `soupkit merge`
writes for the same ingredients in the same order. A soup with shares of its own has no use for the sum: it reads each
of its ingredients once.
"""

import os
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.errors import ArchitectureError, StorageError
from soupkit.merging.arithmetic import Arithmetic
from soupkit.merging.parameters import resolve
from soupkit.merging.plan import TensorPlan, plan_tensors
from soupkit.merging.registry import find_method
from soupkit.search.live import fill_by, put
from soupkit.search.soups import Soup

_SPARE = 2 << 30  # bytes of the device's memory that are left to activations


class RunningSum:
    """Fills `model` with soups of `ingredients` and keeps the sum of one of them.

    Sums lie on the model's device where they fit beside `spare` bytes, else in host memory.
    """

    def __init__(self, model: nn.Module, ingredients: Sequence[Checkpoint], *, spare: int = _SPARE) -> None:
        """Raises ArchitectureError where tensors are not the model's, StorageError without memory for the sum."""
        self._ingredients = ingredients
        self._live = model.state_dict()
        names = ingredients[0].tensors
        for odd in [n for n in self._live if n not in names] + [n for n in names if n not in self._live]:
            raise ArchitectureError(f"does not fit its config at {odd!r}", ingredients[0].ref)
        self.device = next(iter(self._live.values())).device
        self._uniform = find_method("uniform")
        plans = self._plan(range(len(ingredients)))
        self.nbytes = sum(p.numel * p.accumulator.itemsize for p in plans if p.accumulator is not None)
        self.place = self._choose_place(spare)
        self._arithmetic: dict[torch.dtype, Arithmetic] = {}
        self._members: tuple[int, ...] = ()
        self._sums: dict[str, Tensor] = {}

    def _choose_place(self, spare: int) -> torch.device:
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
        """Write `soup` into the model."""
        if soup.shares is None:
            self._fill_uniform(soup.members)
            return
        self._sums, self._members = {}, ()  # room for what else is on the device
        chosen = [self._ingredients[m] for m in soup.members]
        method = find_method(soup.method)
        fill_by(
            method, self._live, chosen, None, resolve(method, soup.parameters, list(chosen[0].tensors), len(chosen))
        )

    @torch.no_grad()
    def _fill_uniform(self, members: Sequence[int]) -> None:
        """Write the mean of `members`, summed in their order, into the model; the sum of all but the last is kept."""
        if len(members) > 1 and self._members != tuple(members[:-1]):
            self.keep(members[:-1])
        for plan in self._plan(members):
            if plan.accumulator is None:
                self._live[plan.name].copy_(self._ingredients[members[0]][plan.name])
                continue
            ops = self._ops(plan.accumulator)
            total, rest = self._beginning(plan, members, ops)
            for m in rest:
                total.add_(self._stored(m, plan.name))
            put(self._live, plan, ops.divide(total, len(members)))

    @torch.no_grad()
    def keep(self, members: Sequence[int]) -> None:
        """Keep the sum of `members`: one more pass where it is the kept one and one ingredient more."""
        sums: dict[str, Tensor] = {}
        for plan in self._plan(members):
            kept = self._sums.pop(plan.name, None)  # one sum at a time is held twice
            if plan.accumulator is None:
                continue
            grows = kept is not None and kept.dtype == plan.accumulator and self._members == tuple(members[:-1])
            if grows and kept is not None:
                total, rest = kept, members[-1:]
            else:
                kept = None
                total = self._stored(members[0], plan.name).to(self.place, plan.accumulator, copy=True)
                rest = members[1:]
            for m in rest:
                total.add_(self._stored(m, plan.name).to(self.place))
            sums[plan.name] = total
        self._sums, self._members = sums, tuple(members)

    def _beginning(self, plan: TensorPlan, members: Sequence[int], ops: Arithmetic) -> tuple[Tensor, Sequence[int]]:
        """Return a sum to go on from, and who is still to be added."""
        kept = self._sums.get(plan.name)
        n = len(self._members)
        if kept is not None and n and tuple(members[:n]) == self._members and kept.dtype == plan.accumulator:
            return ops.copy(kept), members[n:]
        return ops.copy(self._stored(members[0], plan.name)), members[1:]

    def _ops(self, dtype: torch.dtype) -> Arithmetic:
        ops = self._arithmetic.setdefault(dtype, Arithmetic(dtype, self.device))
        ops.reset()
        return ops

    def _stored(self, member: int, name: str) -> Tensor:
        return self._ingredients[member][name].reshape(-1).to(self.device, non_blocking=True)

    def differences(self, written: Checkpoint) -> list[str]:
        """Return the tensors whose live values are not, bit for bit, those of the file `written`."""
        odd = []
        for name, live in self._live.items():
            stored = written[name].to(live.device).to(live.dtype)
            if not torch.equal(_bits(live), _bits(stored)):
                odd.append(name)
        return odd


def _bits(x: Tensor) -> Tensor:
    return x.contiguous().reshape(-1).view(torch.uint8)


def available_memory() -> int | None:
    """Return how many bytes of host memory are free, None where the system does not say."""
    try:
        with open("/proc/meminfo") as file:  # noqa: PTH123 - not a file
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None
