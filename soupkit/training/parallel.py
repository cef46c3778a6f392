"""How a model is spread over ranks, and what its gradients, norms and states are then."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from soupkit.ranks import Ranks

_BUCKET = 32 * 2**20  # elements that are summed over the ranks in one message


def reduce_gradients(model: nn.Module, ranks: Ranks) -> None:
    """Sum over the ranks the gradients that are not sharded; those that are, FSDP has summed already.

    Every rank ends with the same bits: what a collective reduces, it reduces once and hands to all.
    """
    if ranks.size == 1:
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None and not isinstance(p.grad, DTensor)]
    for bucket in _buckets(gradients):
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
        dist.all_reduce(flat)
        for gradient, summed in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
            gradient.copy_(summed.view_as(gradient))


def _buckets(tensors: list[Tensor]) -> list[list[Tensor]]:
    """Group tensors of one dtype, in order, up to a size."""
    buckets: list[list[Tensor]] = []
    size = 0
    for tensor in sorted(tensors, key=lambda t: str(t.dtype)):
        if not buckets or buckets[-1][0].dtype != tensor.dtype or size + tensor.numel() > _BUCKET:
            buckets.append([])
            size = 0
        buckets[-1].append(tensor)
        size += tensor.numel()
    return buckets
