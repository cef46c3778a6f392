"""Metrics of probabilities, beside the accuracy: the lower the better. A search goes by some where it is told to."""

from collections.abc import Callable

import numpy as np

from soupkit.evaluation.calibration import calibration_error
from soupkit.evaluation.metrics import METRICS, Estimate, Metric
from soupkit.evaluation.outcomes import Chances, Hits


def _of_chances(value: Callable[[Hits, Chances], float | None]) -> Callable[[Hits], Estimate | None]:
    def compute(hits: Hits) -> Estimate | None:
        number = None if hits.chances is None else value(hits, hits.chances)
        return None if number is None else Estimate(number)

    return compute


def _nll(log_truth: np.ndarray | None) -> float | None:
    return None if log_truth is None else float(-log_truth.mean())


@_of_chances
def negative_log_likelihood(hits: Hits, chances: Chances) -> float | None:
    """Return the mean of -log p of the images' own classes, in nats."""
    return _nll(chances.log_truth)


@_of_chances
def brier(hits: Hits, chances: Chances) -> float:
    """Return the mean over images of the summed squared errors of all classes' probabilities (Brier 1950), 0 to 2."""
    return float(chances.squares.mean())


@_of_chances
def expected_calibration_error(hits: Hits, chances: Chances) -> float:
    """Return the mean distance of accuracy and confidence, in 15 bins of the confidence."""
    return calibration_error(chances.confidence, hits.top1)


@_of_chances
def entropy(hits: Hits, chances: Chances) -> float:
    """Return the mean entropy of the probabilities, in nats: how undecided a model is. No label has a say in it."""
    return float(chances.entropy.mean())


@_of_chances
def temperature(hits: Hits, chances: Chances) -> float | None:
    """Return the temperature that fits these images best; above 1 where the model is too sure."""
    return chances.temperature


@_of_chances
def nll_at_temperature(hits: Hits, chances: Chances) -> float | None:
    """Return the negative log-likelihood of each half of the images at the temperature of the other."""
    return _nll(chances.fitted_log_truth)


@_of_chances
def ece_at_temperature(hits: Hits, chances: Chances) -> float | None:
    """Return the calibration error of each half of the images at the temperature of the other, in bins of both."""
    fitted = chances.fitted_confidence
    return None if fitted is None else calibration_error(fitted, hits.top1)


CALIBRATION = ("ece", "nll", "brier", "temperature", "ece_at_temperature", "nll_at_temperature")
for _name, _compute, _summary in (
    ("ece", expected_calibration_error, "expected calibration error: how far confidence and accuracy differ, 15 bins"),
    ("nll", negative_log_likelihood, "negative log-likelihood of the images' classes, in nats"),
    ("brier", brier, "summed squared error of the classes' probabilities, 0 to 2"),
    ("entropy", entropy, "mean entropy of the classes' probabilities, in nats, which no label has a say in"),
    ("temperature", temperature, "what the logits are to be divided by for the least nll; above 1: too sure"),
    ("ece_at_temperature", ece_at_temperature, "ece of each half of the images at the temperature of the other"),
    ("nll_at_temperature", nll_at_temperature, "nll of each half of the images at the temperature of the other"),
):
    METRICS.add(
        Metric(
            _name, "classification", _compute, _summary,
            main=False, needs=("chances",), minimized=_name in ("ece", "nll", "brier", "entropy"),
        ),
        module=__name__,
    )  # fmt: skip
