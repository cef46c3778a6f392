"""Linear probes: how well a linear classifier does on frozen image features (Radford et al. 2021, section 3.2).

scikit-learn's logistic regression on features of length one. Its regularisation C is chosen on images of the training
split alone, and the images that are scored are never seen by it.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from soupkit.errors import DataError, UsageError
from soupkit.evaluation.outcomes import Hits
from soupkit.evaluation.task import Task

_FOLDS = 5
_GRID = tuple(10.0**e for e in range(-6, 7, 2))  # the ends of Radford et al.'s search, which halves from there
_HALVINGS = 3
_C_OF_ONE_SHOT = 1.0  # one image a class leaves none to choose it by
_STEPS = 1000


@dataclass(frozen=True, slots=True)
class Probe:
    """Which images of the training split a probe is fitted to: `shots` of each class, or all of them (None). `seed`
    draws them, and what of them chooses C."""

    shots: int | None = None
    seed: int = 0

    def named(self, task: Task) -> Task:
        """Return the task under the name that its probe's scores have."""
        what = "linear probe" if self.shots is None else f"{self.shots}-shot probe"
        return replace(task, name=f"{task.name} ({what})")


def parse_probe(text: str) -> Probe:
    """Return the probe that `--probe` asks for: `all` or a number of images a class. Raises UsageError."""
    if text == "all":
        return Probe()
    if not (text.isascii() and text.isdigit()) or not 0 < int(text) < 10**6:
        raise UsageError("is no probe", f"--probe {text}", "give all, or how many images of each class: --probe 16")
    return Probe(int(text))


def training_rows(labels: np.ndarray, probe: Probe, where: object) -> np.ndarray:
    """Return which of the training images `labels` (int64 [n]) a probe is fitted to, int64 [m], in their order.

    Raises DataError for one class alone, and for a class with fewer images than shots.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2:
        raise DataError(f"has images of {len(classes)} class to fit a probe to", where, "a probe needs two or more")
    if probe.shots is None:
        return np.arange(len(labels))
    if counts.min() < probe.shots:
        what = f"has {counts.min()} images of class {classes[counts.argmin()]}, and {probe.shots} shots are asked for"
        raise DataError(what, where, "ask for fewer")
    generator = np.random.default_rng(probe.seed)
    return np.sort(np.concatenate([generator.permutation(np.flatnonzero(labels == c))[: probe.shots] for c in classes]))


@dataclass(frozen=True, slots=True)
class LinearClassifier:
    """A probe that was fitted: `weight` float64 [classes, d] and `bias` [classes] of the classes `labels` (int64), and
    the regularisation `c` that was chosen."""

    labels: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    c: float


def fit_linear(features: np.ndarray, labels: np.ndarray, probe: Probe) -> LinearClassifier:
    """Fit a probe to `features` (float32 [n, d]) of `labels` (int64 [n], of two classes or more).

    Raises DataError where scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise DataError("is what fits a probe, and is not there", "scikit-learn", "pip install scikit-learn") from error

    def fit(model: LogisticRegression, rows: np.ndarray) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a C far from the best did not converge
            model.fit(features[rows].astype(float), labels[rows])

    folds = list(_folds(labels, probe))
    # One model a fold, which begins with what it was fitted to at the C before.
    models = [LogisticRegression(max_iter=_STEPS, warm_start=True) for _ in folds]

    def accuracy(c: float) -> float:
        shares = []
        for model, (rows, held) in zip(models, folds, strict=True):
            fit(model.set_params(C=c), rows)
            shares.append(model.score(features[held].astype(float), labels[held]))
        return float(np.mean(shares))

    chosen = _best(accuracy) if folds else _C_OF_ONE_SHOT
    model = LogisticRegression(C=chosen, max_iter=_STEPS)
    fit(model, np.arange(len(labels)))
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:  # two classes, of which scikit-learn has the difference
        weight, bias = np.concatenate([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
    return LinearClassifier(model.classes_, weight, bias, chosen)


def fit_probe(
    features: np.ndarray, labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray, classes: int, probe: Probe
) -> tuple[Hits, float]:
    """Fit a probe as `fit_linear` does; return its hits on `test` [m, d], whose labels are `test_labels`, and the C
    that was chosen.

    `classes` are those of the task: one that no training image is of is never chosen.
    """
    fitted = fit_linear(features, labels, probe)
    logits = np.full((len(test), classes), -np.inf, np.float32)
    logits[:, fitted.labels] = test.astype(float) @ fitted.weight.T + fitted.bias
    ranked = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    right = ranked == test_labels[:, None]
    top5 = right.any(axis=1) if classes >= 5 else None
    return Hits(right[:, 0], top5, test_labels, ranked[:, 0]), fitted.c


def _folds(labels: np.ndarray, probe: Probe) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield training rows to fit to, and others to measure on: one fifth of each class at a time.

    All fifths in turn for few shots, one of them for all images; none where a class has one image.
    """
    generator = np.random.default_rng([probe.seed, 1])
    fold_of = np.empty(len(labels), int)
    fewest = _FOLDS
    for c in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == c))
        fold_of[rows] = np.arange(len(rows)) % _FOLDS
        fewest = min(fewest, len(rows))
    for fold in range(1 if probe.shots is None else fewest):
        held = np.flatnonzero(fold_of == fold)
        # A class with one image is fitted to, and not measured on.
        alone = np.isin(labels[held], np.setdiff1d(labels, labels[fold_of != fold]))
        if len(held[~alone]):
            yield np.flatnonzero(~np.isin(np.arange(len(labels)), held[~alone])), held[~alone]


def _best(accuracy: Callable[[float], float]) -> float:
    """Return the C of the highest accuracy: the best of a coarse grid, then between it and its neighbours."""
    measured = {c: accuracy(c) for c in _GRID}
    step = 100.0
    for _ in range(_HALVINGS):
        step **= 0.5
        centre = max(measured, key=lambda c: (measured[c], -c))
        for c in (centre / step, centre * step):
            if c not in measured:
                measured[c] = accuracy(c)
    return max(measured, key=lambda c: (measured[c], -c))
