"""Metrics of games of associations (WinoGAViL, Bitton et al. 2022, arXiv:2207.12576): how well a model plays."""

from functools import partial

import numpy as np

from soupkit.evaluation.intervals import bootstrap
from soupkit.evaluation.metrics import METRICS, Estimate, Metric
from soupkit.evaluation.outcomes import Associations


def mean_jaccard(fewest: int, most: int, games: Associations) -> Estimate | None:
    """Return the mean Jaccard index of the games with `fewest` to `most` candidates; None where there are none.

    The interval is a percentile bootstrap over these games (Efron 1979).
    """
    counted = games.jaccard[(games.candidates >= fewest) & (games.candidates <= most)]
    if not len(counted):
        return None

    def value(weights: np.ndarray) -> float:
        return float(weights @ counted / weights.sum())

    return Estimate(value(np.ones(len(counted))), *bootstrap(value, len(counted)))


_ANY = 1 << 30
for _name, _fewest, _most, _which in (
    ("jaccard_score_10_12", 10, _ANY, "games of 10 candidates or more"),
    ("jaccard_score_5_6", 0, 6, "games of 6 candidates or fewer"),
    ("jaccard_score_5", 5, 5, "games of 5 candidates"),
    ("jaccard_score_6", 6, 6, "games of 6 candidates"),
    ("jaccard_score_10", 10, 10, "games of 10 candidates"),
    ("jaccard_score_12", 12, 12, "games of 12 candidates"),
    ("avg_jaccard_score", 0, _ANY, "all games"),
):
    METRICS.add(
        Metric(
            _name, "associations", partial(mean_jaccard, _fewest, _most),
            f"mean over {_which} of intersection over union of chosen and right images", standard=True,
        ),
        module=__name__,
    )  # fmt: skip
