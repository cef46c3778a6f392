"""The zero-shot classifier: one direction per class, the mean of its prompts' features (Radford et al. 2021)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from soupkit.evaluation.prompts import PromptEncoder, Prompts


@torch.inference_mode()
def zero_shot_classifier(encoder: PromptEncoder, classes: int) -> Tensor:
    """Return the classifier of the encoder's prompts, float32 [embed, classes], columns of length one.

    The prompts stand class by class, as many for each: each is normalised, then the mean of a class, as open_clip's
    `build_zero_shot_classifier` does. No more than a part of the prompts' features is held at a time.
    """
    rows = encoder.prompts.rows
    per_class = len(rows) // classes
    order = rows.argsort(stable=True)  # the texts, in the order in which their features come
    first_text = torch.searchsorted(rows[order], torch.arange(len(encoder.prompts) + 1))
    sums: Tensor | None = None
    for part, features in encoder.parts():
        if sums is None:
            sums = features.new_zeros(classes, features.shape[1])
        texts = order[first_text[part.start] : first_text[part.stop]]
        source = (rows[texts] - part.start).to(features.device)
        # index_put_ adds in a fixed order on CUDA too, which index_add_ does not.
        sums.index_put_(((texts // per_class).to(features.device),), features[source], accumulate=True)
    assert sums is not None
    return normalize(sums / per_class, dim=-1).T.contiguous()


def differentiate_classifier(model: nn.Module, prompts: Prompts, gradient: Tensor, together: int) -> None:
    """Add to the parameters' gradients what follows from `gradient`, float32 [embed, classes]: that of a loss by the
    classifier that `zero_shot_classifier` makes of `prompts`.

    Once to know each class's mean, which is made of length one, and once more for the gradient: no more than `together`
    prompts have activations at a time.
    """
    embed, classes = gradient.shape
    per_class = len(prompts.rows) // classes
    of_class = torch.arange(len(prompts.rows)) // per_class  # [texts]

    def encode(start: int) -> Tensor:
        tokens = prompts.tokens(slice(start, start + together)).to(gradient.device)
        return normalize(model.encode_text(tokens).float(), dim=-1)  # type: ignore[operator]

    def texts_of(start: int) -> Tensor:
        """Return which texts are among the distinct prompts from `start` on."""
        return ((prompts.rows >= start) & (prompts.rows < start + together)).nonzero()[:, 0]

    starts = range(0, len(prompts), together)
    means = torch.zeros(classes, embed, device=gradient.device)
    with torch.no_grad():
        for start in starts:
            features, texts = encode(start), texts_of(start)
            means.index_put_(
                (of_class[texts].to(means.device),),
                features[(prompts.rows[texts] - start).to(means.device)] / per_class, accumulate=True,
            )  # fmt: skip
    means.requires_grad_(True)
    (by_mean,) = torch.autograd.grad(normalize(means, dim=-1), means, gradient.T)
    for start in starts:
        features, texts = encode(start), texts_of(start)
        by_prompt = torch.zeros_like(features)
        by_prompt.index_put_(
            ((prompts.rows[texts] - start).to(means.device),),
            by_mean[of_class[texts].to(means.device)] / per_class, accumulate=True,
        )  # fmt: skip
        features.backward(by_prompt)
