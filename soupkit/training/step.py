"""One step's gradient: the exact contrastive loss over the global batch, however it is cut up.

The loss ties all samples of a batch together, so micro-batches cannot simply be summed. Their features are computed
first, without a graph; the loss and its gradient with respect to all features follow at once (see `loss`); then each
micro-batch goes through the model again, with a graph and the random state it had, and its share of the gradient goes
back through it (GradCache: Gao et al. 2021, https://arxiv.org/abs/2101.06983).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from soupkit.errors import UsageError
from soupkit.ranks import Ranks
from soupkit.training.entry import Precision
from soupkit.training.loss import Loss, LossGradients, contrastive_gradients
from soupkit.training.parallel import reduce_gradients

_KEYS = ("image_features", "text_features", "logit_scale", "logit_bias")


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step gives: the loss over the global batch and the logit scale it was computed with, float32 scalars."""

    loss: Tensor
    logit_scale: Tensor


@dataclass(frozen=True, slots=True)
class _Output:
    image: Tensor
    text: Tensor
    scale: Tensor
    bias: Tensor | None


def check_pairs(images: Tensor, others: Tensor, called: str, micro_batch: int) -> None:
    """Raise UsageError unless there is one of `others`, which are `called` so, for each image, and a micro-batch."""
    if micro_batch < 1 or len(images) != len(others) or not len(images):
        raise UsageError(
            f"{len(images)} images, {len(others)} {called} and micro-batches of {micro_batch} make no step",
            "training step",
            f"give as many images as {called}, and micro-batches of one or more",
        )


def contrastive_step(
    model: nn.Module,
    images: Tensor,
    texts: Tensor,
    *,
    loss: Loss,
    micro_batch: int,
    ranks: Ranks | None = None,
    precision: Precision = "fp32",
) -> StepResult:
    """Leave in every parameter's `.grad` the gradient of the loss over the batches of all ranks; nothing is added to.

    `images` (n, 3, height, width) and `texts` (n, tokens) are this rank's, the same n on every rank, on any device:
    each micro-batch is moved to the model's. The model is one of open_clip's, as it is or after `parallelize`, and
    returns its features and logit scale (and bias) as a dict or a tuple. With `micro_batch` of n or more there is one
    pass and no recomputation. Random draws (patch dropout) are the same in both passes, and afterwards the random state
    is where one pass would have left it. Batch normalization (the ResNets) sees each micro-batch by itself, and twice:
    for it alone the result depends on `micro_batch`.

    `precision` "bf16" runs the model under autocast; the loss is computed in float32 at least. "tf32" is float32 here:
    how products of float32 are rounded is a setting of torch's for the whole process.

    Raises UsageError for a model that returns more than contrastive features, and for batches that do not pair up.
    """
    ranks = ranks or Ranks()
    check_pairs(images, texts, "texts", micro_batch)
    model.zero_grad(set_to_none=True)
    device = next(model.parameters()).device

    def forward(part: slice) -> _Output:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            return _output(model(images[part].to(device, non_blocking=True), texts[part].to(device, non_blocking=True)))

    parts = [slice(start, start + micro_batch) for start in range(0, len(images), micro_batch)]
    if len(parts) == 1:
        whole = forward(parts[0])
        gradients = contrastive_gradients(whole.image, whole.text, whole.scale, whole.bias, loss=loss, ranks=ranks)
        _backward(whole, gradients, parts[0], first=True)
    else:
        states, features = [], []
        with torch.no_grad():
            for part in parts:
                states.append(_random_state(device))
                features.append(forward(part))
        image, text = torch.cat([f.image for f in features]), torch.cat([f.text for f in features])
        whole = features[0]
        gradients = contrastive_gradients(image, text, whole.scale, whole.bias, loss=loss, ranks=ranks)
        del features, image, text
        for part, state in zip(parts, states, strict=True):
            _restore_random_state(state, device)
            _backward(forward(part), gradients, part, first=part.start == 0)
    reduce_gradients(model, ranks)
    return StepResult(gradients.loss.float(), whole.scale.detach().float().reshape(()))


def _output(output: Any) -> _Output:
    """Sort out what a model returned. Raises UsageError when it is not contrastive features alone."""
    if isinstance(output, tuple):
        output = dict(zip(_KEYS, output, strict=False)) if len(output) in (3, 4) else {}
    extra = sorted(set(output) - set(_KEYS)) if isinstance(output, dict) else []
    if not isinstance(output, dict) or not output or extra:
        raise UsageError(
            "the model does not return contrastive features alone"
            + (f", but also {', '.join(extra)}" if extra else ""),
            "training step",
            "models with further losses, such as CoCa, cannot be trained here",
        )
    return _Output(output[_KEYS[0]], output[_KEYS[1]], output[_KEYS[2]], output.get(_KEYS[3]))


def _backward(output: _Output, gradients: LossGradients, part: slice, first: bool) -> None:
    """Send a micro-batch's share back; scale and bias belong to no micro-batch, so the `first` one takes them."""
    pairs = [(output.image, gradients.image[part]), (output.text, gradients.text[part])]
    if first:
        pairs.append((output.scale, gradients.logit_scale))
        if output.bias is not None:
            pairs.append((output.bias, gradients.logit_bias))
    # Towers and scale may be locked.
    pairs = [(tensor, gradient) for tensor, gradient in pairs if tensor.requires_grad]
    if pairs:
        torch.autograd.backward([t for t, _ in pairs], [g.to(t.dtype).reshape(t.shape) for t, g in pairs])


def _random_state(device: torch.device) -> list[Tensor]:
    # open_clip's patch dropout draws on the CPU, whatever the device; plain dropout draws on the device.
    state = [torch.get_rng_state()]
    if device.type == "cuda":
        state.append(torch.cuda.get_rng_state(device))
    return state


def _restore_random_state(state: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)
