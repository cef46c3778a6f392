"""Metrics of classification that look at groups: the worst region, the worst income, and all classes alike.

Names and formulas are those of WILDS (Koh et al. 2021, arXiv:2012.07421) and DataComp (Gadre et al. 2023,
arXiv:2304.14108), with whose published values they are to be compared.
"""

from functools import partial

import numpy as np

from soupkit.evaluation.intervals import RESAMPLES, exact_bounds, percentiles
from soupkit.evaluation.metrics import METRICS, Estimate, Metric
from soupkit.evaluation.outcomes import Hits

_ALPHA = 0.025  # on each side of an interval
_FMOW_OTHER = 5  # what FMoW calls "Other", the handful of its images that are in none of its five regions


def worst_group(hits: Hits, *, among_five: bool = False, without: int = -1) -> Estimate | None:
    """Return the least accuracy (with `among_five`, that of the first five) over the groups that occur, but for the
    group `without`; None where there is none.

    The interval is that of the smallest of the true accuracies. Whichever group it belongs to, that group's own lower
    bound holds with 97.5 %, and the least of all lower bounds lies no higher. The least upper bound holds when all of
    them do, so each of G groups is given a G-th of the error. The bounds are exact ones (Clopper and Pearson 1934),
    since a group may have few images. The smallest of several measured accuracies tends to lie below the smallest true
    one: the interval reaches further up than down, as it should.
    """
    right = hits.top5 if among_five else hits.top1
    if right is None or hits.groups is None:
        return None
    groups, group = np.unique(hits.groups, return_inverse=True)
    kept = groups != without
    counted = np.bincount(group)[kept]
    rights = np.bincount(group, weights=right).astype(np.int64)[kept]
    if not len(counted):
        return None
    low = exact_bounds(rights, counted, _ALPHA)[0].min()
    high = exact_bounds(rights, counted, _ALPHA / len(counted))[1].min()
    return Estimate(float((rights / counted).min()), float(low), float(high))


def macro_f1(hits: Hits) -> Estimate | None:
    """Return the mean over the classes that occur of F1, the harmonic mean of a class's precision and its recall.

    The interval is a percentile bootstrap over the images of each class (Efron 1979): what a class's images are taken
    for is drawn anew, with as many of them as there are.
    """
    if hits.predicted is None:
        return None
    occurring, label = np.unique(hits.labels, return_inverse=True)
    # What is taken for a class that does not occur is wrong, and wrong for no class's precision: one column for all.
    column = np.searchsorted(occurring, hits.predicted)
    column[column == len(occurring)] = 0
    column[occurring[column] != hits.predicted] = len(occurring)
    size = len(occurring) + 1
    confusion = np.bincount(label * size + column, minlength=len(occurring) * size).reshape(-1, size)
    counted = confusion.sum(axis=1)

    def mean(right: np.ndarray, taken: np.ndarray) -> np.ndarray:
        return (2 * right / (taken + counted)).mean(axis=-1)

    generator = np.random.default_rng(0)
    right, taken = np.zeros((RESAMPLES, len(occurring))), np.zeros((RESAMPLES, size))
    for c, row in enumerate(confusion):
        draws = generator.multinomial(counted[c], row / counted[c], RESAMPLES)
        right[:, c] = draws[:, c]
        taken += draws
    value = float(mean(confusion.diagonal(), confusion.sum(axis=0)[:-1]))
    low, high = percentiles(mean(right, taken[:, :-1]))
    return Estimate(value, min(low, value), max(high, value))


METRICS.add(
    Metric(
        "f1_macro", "classification", macro_f1, "mean over classes of the F1 of precision and recall",
        hub_name="f1", needs=("predicted",),
    ),
    module=__name__,
)  # fmt: skip
METRICS.add(
    Metric(
        "acc_wg", "classification", worst_group, "accuracy of the worst group of images", needs=("groups",),
    ),
    module=__name__,
)  # fmt: skip
METRICS.add(
    Metric(
        "acc_top5_wg", "classification", partial(worst_group, among_five=True),
        "top-5 accuracy of the worst group of images", needs=("groups",),
    ),
    module=__name__,
)  # fmt: skip
METRICS.add(
    Metric(
        "acc_worst_region", "classification", worst_group,
        "accuracy of FMoW's worst region, its handful of other places among them", needs=("groups",),
    ),
    module=__name__,
)  # fmt: skip
METRICS.add(
    Metric(
        "acc_worst_region_without_other", "classification", partial(worst_group, without=_FMOW_OTHER),
        "accuracy of the worst of FMoW's five regions", needs=("groups",),
    ),
    module=__name__,
)  # fmt: skip
