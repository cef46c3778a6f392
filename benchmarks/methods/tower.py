"""The model of the study: a vision transformer of 0.2 million parameters under linear heads, and its training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from benchmarks.methods.images import SIDE, Labelled

WIDTH = 64
_SHIFT = 2  # pixels, at most, that training moves an image
State = dict[str, Tensor]


class Tower(nn.Module):
    """A vision transformer, timm's, and a linear head for each number of `classes`; heads are named by their place."""

    def __init__(self, classes: Sequence[int], seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.visual = timm.models.VisionTransformer(
            SIDE, 7, embed_dim=WIDTH, depth=3, num_heads=4, num_classes=0, global_pool="avg"
        )
        self.heads = nn.ModuleList(nn.Linear(WIDTH, n) for n in classes)

    def forward(self, images: Tensor, head: int = 0) -> Tensor:
        """Return logits [N, classes] of uint8 images [N, 3, 28, 28]."""
        return self.heads[head](self.visual(images.float().div(127.5).sub(1)))


@dataclass(frozen=True, slots=True)
class Recipe:
    """A training: how many images, AdamW's rate and weight decay, how much labels are smoothed."""

    samples: int
    rate: float
    decay: float = 0.05
    smoothing: float = 0.0
    batch: int = 64


def train(tower: Tower, tasks: Mapping[int, Labelled], recipe: Recipe, seed: int, *, heads: bool = True) -> None:
    """Train in place on `tasks`, by the number of their head, in turns; without `heads` those stay as they are.

    The rate rises for a tenth of the steps and falls to 0 as a cosine.
    """
    generator = torch.Generator().manual_seed(seed)
    trained = list(tower.parameters()) if heads else list(tower.visual.parameters())
    optimizer = torch.optim.AdamW(trained, recipe.rate, weight_decay=recipe.decay)
    steps = recipe.samples // recipe.batch
    numbers = list(tasks)
    tower.train()
    for step in range(steps):
        head = numbers[step % len(numbers)]
        images, labels = tasks[head]
        chosen = torch.randint(len(images), (recipe.batch,), generator=generator)
        x, y = torch.randint(2 * _SHIFT + 1, (2,), generator=generator).tolist()
        moved = pad(images[chosen], (_SHIFT,) * 4, mode="replicate")[:, :, y : y + SIDE, x : x + SIDE]
        rise = min(1, (step + 1) / max(1, steps // 10))
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * rise * 0.5 * (1 + math.cos(math.pi * step / steps))
        loss = cross_entropy(tower(moved, head), labels[chosen], label_smoothing=recipe.smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tower.eval()


@torch.inference_mode()
def probabilities(tower: Tower, images: Tensor, head: int = 0) -> Tensor:
    """Return each class's probability, [N, classes]."""
    return torch.cat([tower(part, head).softmax(1) for part in images.split(1000)])
