"""One step's gradient of a classifier: cross-entropy, a mean over the global batch, whose parts simply add up."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from soupkit.ranks import Ranks
from soupkit.training.entry import Precision
from soupkit.training.parallel import reduce_gradients
from soupkit.training.step import check_pairs


def classification_step(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    micro_batch: int,
    label_smoothing: float = 0.0,
    ranks: Ranks | None = None,
    precision: Precision = "fp32",
) -> Tensor:
    """Leave in every parameter's `.grad` the gradient of the loss over the batches of all ranks; nothing is added to.

    Returns the loss, a float32 scalar: the mean cross-entropy of the global batch (that of torch, with its
    `label_smoothing`). `images` (n, 3, height, width) and `labels` int64 (n) are this rank's, the same n on every rank,
    on any device: each micro-batch is moved to the model's. The model gives logits (n, classes). `precision` "bf16"
    runs it under autocast; the loss is computed in float32 at least.

    Raises UsageError for batches that do not pair up.
    """
    ranks = ranks or Ranks()
    check_pairs(images, labels, "labels", micro_batch)
    model.zero_grad(set_to_none=True)
    device = next(model.parameters()).device
    total = torch.zeros((), dtype=torch.float64, device=device)
    for start in range(0, len(images), micro_batch):
        part = slice(start, start + micro_batch)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(images[part].to(device, non_blocking=True))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        target = labels[part].to(device, non_blocking=True)
        loss = cross_entropy(logits, target, reduction="sum", label_smoothing=label_smoothing)
        loss = loss / (len(images) * ranks.size)
        loss.backward()
        total += loss.detach()
    reduce_gradients(model, ranks)
    if ranks.size > 1:
        dist.all_reduce(total)
    return total.float()
