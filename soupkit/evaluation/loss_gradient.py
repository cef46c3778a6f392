"""The gradient of a classification's cross-entropy by a live model's weights: through the images that it sees and,
for zero-shot models, through the prompts that they are compared with.

What is held beside the model is one gradient of each weight, and the activations of a few images or prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from soupkit.errors import CheckpointError, StorageError
from soupkit.evaluation.image_pass import Pass, normalise, scale_and_shift
from soupkit.evaluation.pixels import Pixels
from soupkit.evaluation.text_sides import TextSides

_TOGETHER = 64  # images whose activations are held at once; evaluation, which holds none, takes more on CUDA


@dataclass(frozen=True, slots=True)
class Weighted:
    """Images `rows` (int64 [n]) of task number `task`, each of which counts `weights` (float64 [n]) in a loss."""

    task: int
    rows: np.ndarray
    weights: np.ndarray


class LossGradient:
    """Differentiates the loss of `model`: the sum over images of weight x cross-entropy, of the logits times a factor.

    The logits are cosines times the model's own scale (a bias that SigLIP adds to all of them cancels), or what a head
    gives.
    """

    def __init__(self, model: nn.Module, sides: TextSides, pixels: Sequence[Pixels], how: Pass) -> None:
        self._model, self._sides, self._pixels = model, sides, pixels
        self._how = replace(how, batch=min(how.batch, _TOGETHER))

    def of(
        self, parts: Sequence[Weighted], factor: float, *, through_text: bool = True
    ) -> tuple[float, float, dict[int, Tensor]]:
        """Return the loss on `parts`, its derivative by `factor`, and its gradient by every floating-point parameter,
        by the address of its memory. Without `through_text` what images are compared with counts as constant.

        Raises CheckpointError where the loss is not finite, StorageError where the device has no room for one image.
        """
        parameters = [p for p in self._model.parameters() if p.is_floating_point()]
        try:
            for parameter in parameters:
                parameter.requires_grad_(True)
            loss, by_factor = self._fitting(parts, factor, through_text)
            gradients = {p.data_ptr(): p.grad for p in parameters if p.grad is not None}
        finally:
            for parameter in parameters:
                parameter.requires_grad_(False)
                parameter.grad = None
        if not np.isfinite(loss) or not all(bool(g.isfinite().all()) for g in gradients.values()):
            raise CheckpointError("has a loss or a gradient that is not finite", "the soup", "try --precision fp32")
        return loss, by_factor, gradients

    def _fitting(self, parts: Sequence[Weighted], factor: float, through_text: bool) -> tuple[float, float]:
        """Differentiate; where the device has no room, begin again with half as many images and prompts together."""
        while True:
            self._model.zero_grad(set_to_none=True)
            try:
                return self._whole(parts, factor, through_text)
            except torch.OutOfMemoryError as error:
                if self._how.batch == 1:
                    hint = "choose another --precision or --device"
                    raise StorageError("has no room for the gradient of one image", self._how.device, hint) from error
            self._how = replace(self._how, batch=self._how.batch // 2)
            torch.cuda.empty_cache()

    def _whole(self, parts: Sequence[Weighted], factor: float, through_text: bool) -> tuple[float, float]:
        total = by_factor = 0.0
        for part in parts:
            # A clone, because what was made in inference mode cannot be differentiated.
            side = self._sides.of(part.task, self._model).clone().requires_grad_(through_text)
            loss, derivative = self._through_images(part, side, factor)
            total, by_factor = total + loss, by_factor + derivative
            if side.grad is not None:
                self._sides.differentiate(part.task, self._model, side.grad, self._how.batch)
        return total, by_factor

    def _through_images(self, part: Weighted, side: Tensor, factor: float) -> tuple[float, float]:
        """Add the gradient by the weights that images go through, and by `side`; returns the loss, and its derivative
        by `factor`."""
        how, pixels = self._how, self._pixels[part.task]
        encode = replace(how, compiled=False).tower(self._model)
        _, height, width, channels = pixels.images.shape
        scale, shift = scale_and_shift(how, width)
        times = torch.tensor(factor, device=how.device, requires_grad=True)
        labels = torch.from_numpy(pixels.labels[part.rows]).to(how.device)
        weights = torch.from_numpy(part.weights).float().to(how.device)
        total = torch.zeros((), device=how.device)
        for start in range(0, len(part.rows), how.batch):
            here = slice(start, start + how.batch)
            stored = torch.from_numpy(pixels.take(part.rows[here]).copy()).to(how.device)
            x = torch.empty(len(stored), height, width * channels, device=how.device)
            normalise(x, stored.view(x.shape), scale, shift)
            images = x.view(len(stored), height, width, channels).permute(0, 3, 1, 2).to(how.dtype)
            features = encode(images).float()
            logits = (features if how.head else self._scale() * normalize(features, dim=-1)) @ side
            loss = (cross_entropy(times * logits, labels[here], reduction="none") * weights[here]).sum()
            loss.backward()
            total += loss.detach()
        assert times.grad is not None
        return float(total), float(times.grad)

    def _scale(self) -> Tensor:
        scale = getattr(self._model, "logit_scale", None)
        return scale.float().exp() if isinstance(scale, Tensor) else torch.ones((), device=self._how.device)
