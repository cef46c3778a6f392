"""AdamW as open_clip sets it up: gains, biases and whatever else has fewer than two dimensions do not decay."""

import torch
from torch import Tensor, nn

from soupkit.checkpoint.towers import depths
from soupkit.training.entry import TrainEntry


def build_optimizer(model: nn.Module, entry: TrainEntry) -> torch.optim.AdamW:
    """Return AdamW over the parameters that are trained.

    Groups hold `lr_scale`: with `layer_decay` below 1 each block of a tower learns slower than the one after it, by
    that factor (BEiT, https://arxiv.org/abs/2106.08254, as fine-tuning recipes for CLIP use it).
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups: dict[tuple[bool, float], list[Tensor]] = {}
    scales = _layer_scales([name for name, _ in named], entry.layer_decay)
    for name, parameter in named:
        groups.setdefault((_decays(name, parameter), scales[name]), []).append(parameter)
    settings = [
        {"params": members, "weight_decay": entry.weight_decay if decays else 0.0, "lr_scale": scale}
        for (decays, scale), members in groups.items()
    ]
    # Fused: one pass over the parameters instead of a dozen, on the CPU as on CUDA.
    return torch.optim.AdamW(settings, lr=entry.lr, betas=entry.betas, eps=entry.eps, fused=True)


def _decays(name: str, parameter: Tensor) -> bool:
    """The split of open_clip's own trainer, to the letter."""
    return not (parameter.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale")))


def _layer_scales(names: list[str], decay: float) -> dict[str, float]:
    if decay == 1.0:
        return dict.fromkeys(names, 1.0)
    own = {name: name.removeprefix("model.") for name in names}  # the tower's, under a head
    depth = depths(list(own.values()))
    layers = {image: len({d for n, d in depth.items() if n.startswith("visual.") == image}) for image in (True, False)}
    return {n: decay ** (round((1 - depth[o]) * max(1, layers[o.startswith("visual.")] - 1))) for n, o in own.items()}


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of the next step, scaled per group."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
