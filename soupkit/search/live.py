"""A merge into a live model: its parameters are overwritten with what the merge would write, bit for bit."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.dtypes import DTYPES
from soupkit.merging.arithmetic import Arithmetic
from soupkit.merging.parameters import Resolved
from soupkit.merging.plan import TensorPlan, plan_tensors
from soupkit.merging.registry import MergeMethod


@torch.no_grad()
def fill_by(
    method: MergeMethod,
    live: Mapping[str, Tensor],
    ingredients: Sequence[Checkpoint],
    base: Checkpoint | None,
    parameters: dict[str, Resolved],
) -> None:
    """Write the merge of `ingredients` and `base` into the tensors `live`, in one pass over each of them.

    `parameters` are those of each tensor, resolved. `live` and the checkpoints hold the same names.
    """
    device = next(iter(live.values())).device
    arithmetic: dict[torch.dtype, Arithmetic] = {}
    for plan in plan_tensors(method, ingredients, base, parameters, None):
        if plan.accumulator is None:
            live[plan.name].copy_(ingredients[0][plan.name])
            continue
        ops = arithmetic.setdefault(plan.accumulator, Arithmetic(plan.accumulator, device))
        ops.reset()
        stored = [source[plan.name].reshape(-1).to(device, non_blocking=True) for source in ingredients]
        far = base[plan.name].reshape(-1).to(device, non_blocking=True) if base is not None else None
        put(live, plan, method.function(ops, stored, far, **plan.parameters))


def put(live: Mapping[str, Tensor], plan: TensorPlan, merged: Tensor) -> None:
    """Round a tensor, merged in its accumulator, to the soup's dtype, and write it."""
    live[plan.name].copy_(merged.to(getattr(torch, DTYPES[plan.dtype].torch_name)).view(plan.shape))
