"""How a merge method is called for what is at hand: by a merge to disk, a merge into a live model, a survey alike."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from soupkit.merging.arithmetic import Arithmetic, AtHand
from soupkit.merging.plan import TensorPlan
from soupkit.merging.registry import LAYER_RULE, MergeMethod

LINES_ALPHA = "lines_alpha"


def call(
    method: MergeMethod,
    plan: TensorPlan,
    of_the_model: Mapping[str, Any],
    ops: Arithmetic,
    stored: Sequence[Tensor],
    at_hand: AtHand,
    *,
    has_base: bool,
) -> Tensor:
    """Return the merge of what is at hand, 1-D: in `ops`' accumulator, or `at_hand.target` where that was filled.

    `stored` are 1-D tensors in their stored dtypes, the base's last where `has_base`; `of_the_model` holds what the
    method's surveys have made, by the names of its arguments.
    """
    lines: Any = plan.parameters.get("lines")
    ops.begin(at_hand if lines is None else AtHand(at_hand.pieces))
    seen = [x.view(plan.shape) for x in stored] if plan.whole else list(stored)
    ingredients, base = (seen[:-1], seen[-1]) if has_base else (seen, None)
    own = {name: value for name, value in plan.parameters.items() if name not in LAYER_RULE}
    arguments = {name: value for name, value in of_the_model.items() if name in method.surveys}
    merged = method.function(ops, ingredients, base, **own, **arguments).reshape(-1)
    if lines is None:
        return merged
    alpha: Any = plan.parameters.get(LINES_ALPHA)
    factor = (of_the_model[LINES_ALPHA] if alpha is None else alpha) + lines
    origin = stored[-1]
    return ops.by_runs(lambda xs, b: xs[0].sub_(ops.copy(b)).mul_(factor).add_(b), [merged], origin)
