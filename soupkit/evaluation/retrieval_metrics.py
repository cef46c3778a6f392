"""Metrics of retrieval: how often a caption finds its image, and an image one of its captions."""

from functools import partial

import numpy as np

from soupkit.evaluation.intervals import bootstrap
from soupkit.evaluation.metrics import METRICS, Estimate, Metric
from soupkit.evaluation.outcomes import RECALLS, Retrieval


def recall(k: int, by_captions: float, retrieval: Retrieval) -> Estimate:
    """Return `by_captions` times the share of captions whose image is among the `k` nearest, plus 1 - `by_captions`
    times the share of images one of whose captions is.

    The interval is a percentile bootstrap over images, each with its captions.
    """
    column = RECALLS.index(k)
    caption_hits, image_hits = retrieval.caption_hits[:, column], retrieval.image_hits[:, column]
    captions = np.bincount(retrieval.image_of_caption, minlength=retrieval.n)
    hits_of_captions = np.bincount(retrieval.image_of_caption, weights=caption_hits, minlength=retrieval.n)

    def value(weights: np.ndarray) -> float:
        of_captions = (weights @ hits_of_captions) / (weights @ captions)
        of_images = (weights @ image_hits) / weights.sum()
        return float(by_captions * of_captions + (1 - by_captions) * of_images)

    return Estimate(value(np.ones(retrieval.n)), *bootstrap(value, retrieval.n))


for _k in RECALLS:
    METRICS.add(
        Metric(
            f"image_retrieval_recall@{_k}", "retrieval", partial(recall, _k, 1.0),
            f"share of captions whose image is among the {_k} nearest", standard=True,
        ),
        module=__name__,
    )  # fmt: skip
    METRICS.add(
        Metric(
            f"text_retrieval_recall@{_k}", "retrieval", partial(recall, _k, 0.0),
            f"share of images one of whose captions is among the {_k} nearest", standard=True,
        ),
        module=__name__,
    )  # fmt: skip
METRICS.add(
    Metric(
        "mean_recall@1", "retrieval", partial(recall, 1, 0.5), "mean of the two recalls at 1", standard=True,
    ),
    module=__name__,
)  # fmt: skip
