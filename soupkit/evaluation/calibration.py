"""Whether a model's probabilities can be used: how often it is right where it says that it is (Guo et al. 2017,
arXiv:1706.04599).

The probabilities are a softmax over the classes of the logits: for zero-shot models of the cosines times the model's
own scale (a bias that SigLIP adds to all of them cancels), for models with a head of what it gives.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from soupkit.evaluation.outcomes import Chances, Hits, Outcome
from soupkit.evaluation.task import Bin

BINS = 15  # of equal width, as in Guo et al.
_BLOCK = 4 << 20  # logits that are looked at together
_BOUNDS = (1e-3, 1e3)  # of the temperature; where the best lies beyond, there is none
_STEPS = 60


def with_chances(outcome: Outcome, scale: float, *, fits: bool = True) -> Outcome:
    """Return the outcome of a classification whose logits were kept with what they say, times `scale`, about
    probabilities; any other outcome as it is. Temperatures are only sought where it `fits`."""
    if not isinstance(outcome, Hits) or outcome.logits is None:
        return outcome
    return replace(outcome, chances=chances_of(outcome.logits, outcome.labels, scale, fits=fits))


def chances_of(logits: np.ndarray, labels: np.ndarray, scale: float, *, fits: bool = True) -> Chances:
    """Return the probabilities that follow from `logits` (float32 [N, classes]) times `scale`, for `labels` int64 [N].

    The temperature, by which the scaled logits are divided, is the one of the least negative log-likelihood on all
    images. What it would do for others is measured with that of each half of the images on the other half: even and odd
    numbers, so that sorted data are in both.
    """
    if not fits:
        return Chances(*_statistics(logits, labels, np.full(len(labels), scale)), None, None, None, None)
    all_rows = np.arange(len(labels))
    halves = [all_rows[::2], all_rows[1::2]]
    fitted = [best_temperature(logits, labels, scale, half) if len(half) else None for half in halves]
    own = _statistics(logits, labels, np.full(len(labels), scale))
    divisor = np.ones(len(labels))
    for half, temperature in zip(halves, reversed(fitted), strict=True):
        divisor[half] = temperature or 1.0
    at_temperature = None if None in fitted else _statistics(logits, labels, scale / divisor)[:3]
    return Chances(*own, best_temperature(logits, labels, scale, all_rows), *(at_temperature or (None, None, None)))


def _statistics(
    logits: np.ndarray, labels: np.ndarray, scales: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return for each image the largest probability, the logarithm of that of its class, the sum of the squared errors
    of all, and their entropy in nats; float64 [N] each."""
    confidence, log_truth, squares, entropy = (np.empty(len(labels)) for _ in range(4))
    for rows, part, truth in _blocks(logits, labels, np.arange(len(labels))):
        log_p = (part * torch.from_numpy(scales[rows])[:, None]).log_softmax(dim=1)
        of_truth = log_p.gather(1, truth[:, None])[:, 0]
        confidence[rows] = log_p.amax(dim=1).exp()
        log_truth[rows] = of_truth
        squares[rows] = log_p.mul(2).exp().sum(dim=1) - 2 * of_truth.exp() + 1
        entropy[rows] = -(log_p.exp() * log_p).sum(dim=1)
    return confidence, log_truth, squares, entropy


def best_temperature(logits: np.ndarray, labels: np.ndarray, scale: float, rows: np.ndarray) -> float | None:
    """Return the temperature that makes the negative log-likelihood of images `rows` least; None where it has no least
    value between 1/1000 and 1000, as for a model that is always right.

    The likelihood is log-concave in the inverse temperature: Newton's method on its slope, kept between bounds that
    close in.
    """
    low, high = 1 / _BOUNDS[1], 1 / _BOUNDS[0]
    if _slope(logits, labels, scale, rows, low)[0] >= 0 or _slope(logits, labels, scale, rows, high)[0] <= 0:
        return None
    inverse = 1.0
    for _ in range(_STEPS):
        slope, curvature = _slope(logits, labels, scale, rows, inverse)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        step = inverse - slope / curvature if curvature > 0 else low
        following = step if low < step < high else (low * high) ** 0.5
        if abs(following - inverse) <= 1e-9 * inverse:
            break
        inverse = following
    return 1 / inverse


def _slope(
    logits: np.ndarray, labels: np.ndarray, scale: float, rows: np.ndarray, inverse: float
) -> tuple[float, float]:
    """Return the first and second derivative of the summed negative log-likelihood by the inverse temperature."""
    slope = curvature = 0.0
    for _, part, truth in _blocks(logits, labels, rows):
        scaled = part * scale
        p = (scaled * inverse).softmax(dim=1)
        mean = (p * scaled).sum(dim=1)
        slope += float((mean - scaled.gather(1, truth[:, None])[:, 0]).sum())
        curvature += float(((p * scaled.square()).sum(dim=1) - mean.square()).sum())
    return slope, curvature


def _blocks(logits: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
    """Yield block by block some of `rows`, their logits as float64 [b, classes], and their labels."""
    size = max(1, _BLOCK // logits.shape[1])
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        yield part, torch.from_numpy(logits[part]).double(), torch.from_numpy(labels[part])


def reliability_bins(outcome: Outcome) -> tuple[Bin, ...]:
    """Return the bins of a reliability diagram; none where nobody asked for probabilities."""
    if not isinstance(outcome, Hits) or outcome.chances is None:
        return ()
    counts, confidence, right = _binned(outcome.chances.confidence, outcome.top1)
    return tuple(
        Bin(int(n), float(c / n) if n else 0.0, float(r / n) if n else 0.0)
        for n, c, r in zip(counts, confidence, right, strict=True)
    )


def calibration_error(confidence: np.ndarray, hits: np.ndarray) -> float:
    """Return the expected calibration error: the mean over images of how far accuracy and confidence of their bin
    differ."""
    _, stated, right = _binned(confidence, hits)
    return float(np.abs(stated - right).sum() / len(hits))


def _binned(confidence: np.ndarray, hits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the images, the summed confidence and the hits of each bin; a bin holds its upper end."""
    which = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    columns: tuple[np.ndarray | None, ...] = (None, confidence, hits)
    counts, stated, right = (np.bincount(which, weights=column, minlength=BINS) for column in columns)
    return counts, stated, right
