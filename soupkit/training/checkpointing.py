"""Which of a block's activations the forward pass keeps for the backward pass, and which are computed once more.

`full` keeps a block's inputs alone and goes forwards through it again, a third of all operations. `selective` keeps
what matrix products and attention give as well, and computes anew what lies between them, which is cheap:
normalisation, activation functions, casts (selective activation recomputation, Korthikanti et al. 2022,
arXiv:2205.05198). The gradients are those of a pass that keeps everything.
"""

from collections.abc import Callable, Iterable
from functools import partial, wraps
from typing import Any, Literal, TypeAlias

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

Checkpointing: TypeAlias = Literal["none", "full", "selective"]

_PRODUCTS = (
    "mm", "addmm", "bmm", "baddbmm", "_scaled_mm", "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
)  # fmt: skip


def products() -> frozenset[Any]:
    """Return the operations whose results `selective` keeps, as far as this torch has them."""
    return frozenset(getattr(torch.ops.aten, name).default for name in _PRODUCTS if hasattr(torch.ops.aten, name))


def keep_products(blocks: Iterable[nn.Module]) -> None:
    """Let each block keep the results of its products and compute all else again in the backward pass."""
    kept = products()

    def policy(_: Any, operation: Any, *arguments: Any, **named: Any) -> CheckpointPolicy:
        return CheckpointPolicy.MUST_SAVE if operation in kept else CheckpointPolicy.PREFER_RECOMPUTE

    contexts = partial(create_selective_checkpoint_contexts, policy)
    for block in blocks:
        block.forward = _selective(block.forward, contexts)  # inside of FSDP's hooks, which gather the parameters


def _selective(forward: Callable[..., Any], contexts: Callable[[], Any]) -> Callable[..., Any]:
    @wraps(forward)
    def again(*arguments: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*arguments, **named)
        return checkpoint(forward, *arguments, use_reentrant=False, context_fn=contexts, **named)

    return again
