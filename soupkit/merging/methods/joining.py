"""How sparse task vectors become one: by their sum, or by the sum of those that agree with the elected sign."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from soupkit.merging.arithmetic import Arithmetic


def joined(
    ops: "Arithmetic", vectors: "Sequence[Tensor]", weights: Sequence[float], *, elect: bool, normalize: bool
) -> "Tensor":
    """Return the weighted sum of task vectors in the accumulator's dtype, which are used up.

    With `elect`, each entry takes the sign of that sum, and only those of its sign count (TIES, Yadav et al. 2023,
    section 3.2). `normalize` divides by the weights of what counts.
    """
    for vector, weight in zip(vectors, weights, strict=True):
        if weight != 1:
            vector.mul_(weight)
    total = ops.sum(vectors)
    if not elect:
        share = sum(weights)
        return ops.divide(total, share) if normalize and abs(share) >= 1e-8 else total
    agreed, count = ops.zeros(total.numel()), ops.zeros(total.numel())
    for vector, weight in zip(vectors, weights, strict=True):
        agrees = ops.has_sign_of(vector, total)
        if normalize:
            counts = ops.is_nonzero(vector).bitwise_and_(agrees)
            count.add_(ops.as_number(counts, weight))
            ops.release()
        agreed.add_(ops.keep(vector, agrees))
        ops.release()
    if normalize:
        none = ops.is_nonzero(count).bitwise_not_()
        agreed.div_(count.add_(ops.as_number(none, 1.0)))
        ops.release()
    ops.release()
    return agreed
