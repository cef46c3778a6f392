"""The gradient of the loss on the tasks that select by the shares of a mixture, without all ingredients in memory.

The mixture's weights are the sum of share x weights of each ingredient, so the derivative by one share is the inner
product of that ingredient with the gradient by the mixture's weights. One pass over the ingredients fills the live
model, one more takes the inner products.
"""

import json
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import xxhash

from soupkit.evaluation.loss_gradient import Weighted
from soupkit.evaluation.metrics import METRICS
from soupkit.files import parse_json, read_text, write_cached
from soupkit.search.candidate import ShareGradient, Soup
from soupkit.search.live_soups import LiveSoups
from soupkit.search.names import GRADIENTS


class MixingGradient:
    """Differentiates the cross-entropy on the images that select, each with the weight that it has in the score.

    What was computed is kept in `directory`, a file for each point: a search that starts again computes none twice.
    """

    def __init__(self, live: LiveSoups, directory: Path) -> None:
        self._live, self._directory = live, directory / GRADIENTS
        self._gradient = live.evaluator.loss_gradient()
        texts = {f.text for f in live.ingredients.fingerprints}
        self._through_text = len(texts) > 1  # equal towers: no share changes them
        self._weights = [self._weights_of(t) for t in range(len(live.selecting))]
        starts = np.cumsum([0, *map(len, self._weights)])
        self._starts, self.images = starts, int(starts[-1])

    def _weights_of(self, t: int) -> np.ndarray:
        """Return what each image of task number `t` counts, float64 [n]: over all tasks they add up to 1."""
        task, pixels = self._live.selecting[t], self._live.evaluator.pixels[t]
        labels, metric = pixels.labels[pixels.rows], METRICS[task.metric]
        if metric.hit_denominators is None:
            return np.full(len(labels), 1 / (len(labels) * len(self._live.selecting)))
        return 1 / (metric.hit_denominators(labels) * len(self._live.selecting))

    def batches(self, size: int, seed: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield all images in a random order, int64 [size], the last batch perhaps smaller."""
        order = np.random.default_rng(list(seed)).permutation(self.images)
        for start in range(0, len(order), size):
            yield order[start : start + size]

    def of(
        self, members: Sequence[int], blocks: Sequence[str], shares: np.ndarray, factor: float, images: np.ndarray
    ) -> ShareGradient:
        """Differentiate at the mixture of `members` with `shares`, float64 [blocks, members], for blocks of tensors:
        patterns of their names, the first that matches counts. The logits are multiplied by `factor`."""
        path = self._directory / f"{self._key(members, blocks, shares, factor, images)}.json"
        kept = self._live.ranks.lead(_read, path, shares.shape)
        if kept is None:
            kept = self._computed(members, blocks, shares, factor, np.sort(images))
            self._live.ranks.lead(write_cached, path, json.dumps([kept.loss, kept.by_factor, kept.by_shares.tolist()]))
        return kept

    def _computed(
        self, members: Sequence[int], blocks: Sequence[str], shares: np.ndarray, factor: float, images: np.ndarray
    ) -> ShareGradient:
        live, evaluator = self._live, self._live.evaluator
        live.fill(Soup(tuple(members), tuple(zip(blocks, map(tuple, shares.tolist()), strict=True))))
        parts = []
        for t, weights in enumerate(self._weights):
            own = images[(images >= self._starts[t]) & (images < self._starts[t + 1])] - self._starts[t]
            if len(own):
                # An average over the batch estimates the sum over all images.
                scaled = weights[own] * self.images / len(images)
                parts.append(Weighted(t, evaluator.pixels[t].rows[own], scaled))
        loss, by_factor, gradients = self._gradient.of(parts, factor, through_text=self._through_text)

        def block_of(name: str) -> int:
            return next(i for i, pattern in enumerate(blocks) if fnmatchcase(name, pattern))

        products = live.running_sum.products(gradients, block_of, len(blocks))
        return ShareGradient(loss, by_factor, products[:, list(members)])

    def _key(
        self, members: Sequence[int], blocks: Sequence[str], shares: np.ndarray, factor: float, images: np.ndarray
    ) -> str:
        fingerprints = [self._live.ingredients.fingerprints[m].value for m in members]
        drawn = xxhash.xxh3_128_hexdigest(np.sort(images).astype("<i8").tobytes())
        described = [fingerprints, list(blocks), shares.tolist(), factor, drawn]
        return xxhash.xxh3_128_hexdigest(json.dumps(described).encode())


def _read(path: Path, shape: tuple[int, ...]) -> ShareGradient | None:
    """Return the gradient in a file; None where it holds none of this shape."""
    try:
        loss, by_factor, by_shares = parse_json(read_text(path))
        values = np.array(by_shares, dtype=np.float64)
        return ShareGradient(float(loss), float(by_factor), values) if values.shape == shape else None
    except (OSError, ValueError, TypeError):
        return None
