"""What the tests of the training step share: tiny models, batches, and open_clip's losses on a whole batch."""

import copy

import open_clip
import torch
from torch import Tensor, nn

from soupkit.training.classifier import Classifier

WIDTH = 16
CLASSES = 5
VISION = {"image_size": 16, "layers": 2, "width": 32, "head_width": 16, "patch_size": 4, "patch_dropout": 0.5}
TEXT = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 2}


def tiny_model(custom: bool = False, bias: bool = False, dropout: float = 0.5, output_dict: bool = True) -> nn.Module:
    """A CLIP of a few thousand parameters with patch dropout, the same at every call."""
    kind = open_clip.model.CustomTextCLIP if custom else open_clip.model.CLIP
    torch.manual_seed(0)
    return kind(
        embed_dim=WIDTH,
        vision_cfg=copy.deepcopy({**VISION, "patch_dropout": dropout}),
        text_cfg=copy.deepcopy(TEXT),
        init_logit_bias=-3.0 if bias else None,
        output_dict=output_dict,
    ).train()


def small_classifier(dropout: float = 0.0) -> Classifier:
    """A classifier with the image tower of such a CLIP, in float64."""
    torch.manual_seed(3)
    return Classifier(tiny_model(dropout=dropout), WIDTH, CLASSES, keep_text=False).double().train()


def batch(n: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 3, 16, 16, generator=generator, dtype=torch.float64).to(dtype)
    texts = torch.randint(1, 62, (n, 8), generator=generator)
    texts[:, -1] = 63
    return images, texts


def whole_loss(loss: str, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """open_clip's own loss on a whole batch."""
    if loss == "clip":
        return open_clip.loss.ClipLoss()(image, text, scale, bias)
    return open_clip.loss.SigLipLoss()(image, text, scale, bias)


def reference(model: nn.Module, parts: list[tuple[int, Tensor, Tensor]], loss: str) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and gradients of one batch held whole by autograd.

    Each part is a seed (where it starts on random numbers of its own; negative: it goes on), images and texts: the
    pieces whose random draws the step under test makes in turn.
    """
    model.zero_grad()
    outputs = []
    for seed, images, texts in parts:
        if seed >= 0:
            torch.manual_seed(seed)
        output = model(images, texts)
        if not isinstance(output, dict):
            names = ("image_features", "text_features", "logit_scale", "logit_bias")
            output = dict(zip(names, output, strict=False))
        outputs.append(output)
    image = torch.cat([o["image_features"] for o in outputs])
    text = torch.cat([o["text_features"] for o in outputs])
    value = whole_loss(loss, image, text, outputs[0]["logit_scale"], outputs[0].get("logit_bias"))
    value.backward()
    return value.detach(), gradients(model)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
