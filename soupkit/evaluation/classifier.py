"""The zero-shot classifier: one direction per class, the mean of its prompts' features (Radford et al. 2021)."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from soupkit.evaluation.prompts import PromptEncoder


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
