"""A merge into a live model: its parameters are overwritten with what the merge would write, bit for bit."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.dtypes import DTYPES
from soupkit.merging.arithmetic import Arithmetic, AtHand
from soupkit.merging.calling import call
from soupkit.merging.parameters import Resolved
from soupkit.merging.plan import TensorPlan, cut, plan_tensors
from soupkit.merging.registry import MergeMethod
from soupkit.merging.survey import Survey, of_the_model
from soupkit.merging.tensor_runs import Reader, runs

_SLAB_BYTES = 32 << 20  # of a survey's pieces of work


@torch.no_grad()
def fill_by(
    method: MergeMethod,
    live: Mapping[str, Tensor],
    ingredients: Sequence[Checkpoint],
    base: Checkpoint | None,
    parameters: dict[str, Resolved],
    reader: Reader,
) -> None:
    """Write the merge of `ingredients` and `base` into the tensors `live`, in one pass over each of them.

    `parameters` are those of each tensor, resolved. `live` and the checkpoints hold the same names; `reader` is of
    their device.
    """
    sources = [*ingredients, base] if base is not None else list(ingredients)
    arithmetic: dict[torch.dtype, Arithmetic] = {}
    plans = plan_tensors(method, ingredients, base, parameters, None)
    known: dict[str, Any] = {}
    if method.base != "none" or method.surveys:
        known = of_the_model(Survey(method, cut(plans, _SLAB_BYTES), sources, base is not None, reader.device))
    for plan in plans:
        if plan.accumulator is None:
            live[plan.name].copy_(ingredients[0].read(plan.name))
            continue
        ops = arithmetic.setdefault(plan.accumulator, Arithmetic(plan.accumulator, reader.device))
        with flattened(live[plan.name]) as target:
            for run in runs(sources, plan.name, reader.device, together=len(sources), whole=plan.whole):
                stored = [reader.read(i, source, plan.name, run) for i, source in enumerate(sources)]
                at_hand = AtHand(((plan.name, run.start, run.stop),))
                put(target[run], plan, call(method, plan, known, ops, stored, at_hand, has_base=base is not None))


@contextmanager
def flattened(live: Tensor) -> Iterator[Tensor]:
    """Yield a tensor's elements as 1-D; what is written there is in the tensor afterwards."""
    flat = live.reshape(-1)
    yield flat
    if flat.data_ptr() != live.data_ptr():
        live.copy_(flat.view(live.shape))


def put(target: Tensor, plan: TensorPlan, merged: Tensor) -> None:
    """Round what is merged in the plan's accumulator to the soup's dtype, and write it to `target`."""
    target.copy_(merged.to(getattr(torch, DTYPES[plan.dtype].torch_name)))
