"""A classifier that is trained: the image tower of a CLIP and a linear head on its features, in model-soups' form."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from soupkit.checkpoint import Checkpoint, open_checkpoint
from soupkit.checkpoint.architecture import CLASS_NAMES
from soupkit.checkpoint.towers import CLASSIFICATION_HEAD, has_head
from soupkit.evaluation.adapter import build_model, fill_model
from soupkit.progress import SILENT, Progress
from soupkit.ranks import Ranks
from soupkit.training.class_names import has_text
from soupkit.training.entry import TrainEntry
from soupkit.training.model import Start, fill_clip, lock_towers, training_config
from soupkit.training.options import TrainOptions
from soupkit.training.order import seed_of
from soupkit.training.starting_head import probe_head, zero_shot_head

_BIAS = CLASSIFICATION_HEAD.replace("weight", "bias")


class Classifier(nn.Module):
    """`model.visual`, the image tower of `clip`, and `classification_head` on its features at length one.

    With `keep_text` all of the CLIP is in `model`, and the image tower alone is trained.
    """

    def __init__(self, clip: nn.Module, width: int, classes: int, *, keep_text: bool) -> None:
        super().__init__()
        visual: Any = clip.visual
        self.model: nn.Module = clip if keep_text else _ImageTower(visual)
        self.classification_head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [n, classes] of `images` [n, 3, height, width].

        The head multiplies in float32 at least, under autocast too: a zero-shot head's logits are up to 100 times a
        cosine, and bfloat16 has steps of a quarter there.
        """
        visual: Any = self.model.visual
        features, head = visual(images), self.classification_head
        wide = torch.promote_types(features.dtype, torch.float32)
        with torch.autocast(features.device.type, enabled=False):
            return linear(normalize(features.to(wide), dim=-1), head.weight.to(wide), head.bias.to(wide))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the activations of the image tower in the backward pass."""
        visual: Any = self.model.visual
        visual.set_grad_checkpointing(enable)


class _ImageTower(nn.Module):
    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual


def build_classifier(
    entry: TrainEntry, start: Start, device: torch.device, options: TrainOptions, ranks: Ranks, *,
    begun: bool, progress: Progress = SILENT,
) -> nn.Module:  # fmt: skip
    """Return the classifier with its first weights, ready to be trained; parameters are float32. All ranks call it.

    The head is that of the parent, or made anew as the entry says. Where the run has `begun`, a checkpoint holds what
    it is now, and none is made.

    Raises ArchitectureError, CheckpointError, UsageError for what the image tower cannot do, DataError for data that no
    probe can be fitted to.
    """
    assert entry.init is not None
    with open_checkpoint(entry.init) as parent:
        new = entry.head or (None if has_head(parent.tensors) else "zero_shot")
        model, clip = ranks.together(_built, entry, start, parent, device, progress)
    if new is not None and not begun:
        head = ranks.lead(_new_head, new, clip, entry, start, options, progress)
        with torch.no_grad():
            model.classification_head.weight.copy_(head[0])
            model.classification_head.bias.copy_(head[1])
    return model


def _built(
    entry: TrainEntry, start: Start, parent: Checkpoint, device: torch.device, progress: Progress
) -> tuple[Classifier, nn.Module]:
    """Return the classifier, whose head may be still to be made, and the CLIP that its towers are of."""
    torch.manual_seed(seed_of(entry.seed, "init"))
    clip = build_model(training_config(entry, start), device, torch.float32, progress=progress)
    width, classes = start.config["model_cfg"]["embed_dim"], len(start.config[CLASS_NAMES])
    if has_head(parent.tensors):
        outputs = parent.tensors[CLASSIFICATION_HEAD].shape[0]
        whole = Classifier(clip, width, outputs, keep_text=has_text(parent)).to(device)
        # model-soups' own files keep some of the text tower, which is of no use.
        tensors = {name: spec for name, spec in parent.tensors.items() if name in whole.state_dict()}
        bias = {} if _BIAS in tensors else {_BIAS: torch.zeros(outputs)}
        fill_model(whole, replace(parent, tensors=tensors), bias)
        model = Classifier(clip, width, classes, keep_text=entry.keep_text).to(device)
        if entry.head is None:
            model.classification_head = whole.classification_head
    else:
        fill_clip(clip, parent, progress)
        model = Classifier(clip, width, classes, keep_text=entry.keep_text).to(device)
    model.train().requires_grad_(True)
    if entry.keep_text:
        clip.requires_grad_(False)
        clip.visual.requires_grad_(True)
    if entry.lock_image:
        lock_towers(clip, image=True, text=False)
    return model, clip


def _new_head(
    kind: str, clip: nn.Module, entry: TrainEntry, start: Start, options: TrainOptions, progress: Progress
) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a head that is made anew, on the CPU."""
    make = zero_shot_head if kind == "zero_shot" else probe_head
    return make(clip, entry, start, options, progress)
