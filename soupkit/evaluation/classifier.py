"""The zero-shot classifier: one direction per class, the mean of its prompts' features (Radford et al. 2021)."""

import torch
from torch import Tensor

from soupkit.evaluation.prompts import PromptEncoder


def zero_shot_classifier(encoder: PromptEncoder, classes: int) -> Tensor:
    """Return the classifier of the encoder's prompts, float32 [embed, classes], columns of length one.

    The prompts stand class by class, as many for each: each is normalised, then the mean of a class, as open_clip's
    `build_zero_shot_classifier` does.
    """
    features = encoder.encode()
    means = features.view(classes, -1, features.shape[-1]).mean(dim=1)
    return torch.nn.functional.normalize(means, dim=-1).T.contiguous()
