"""Averages of the ingredients' logits in the place of soups (RADIN, Menes and Risser-Maroix 2024, "RADIN: Souping on a
Budget", https://arxiv.org/abs/2401.17790): what a soup will score is guessed without a forward pass.

Every ingredient's logits are taken on a part of the images, once. A soup's are guessed to be their mean, with the
soup's shares; the guess orders and prunes trials, and what is accepted is scored for real.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from soupkit.files import write_whole
from soupkit.search.candidate import Soup
from soupkit.search.hit_score import HitMetric


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the images that select: `rows` int64 [b], in order, of all n; the `labels` of each task's, int64."""

    rows: np.ndarray
    labels: tuple[np.ndarray, ...]
    metric: HitMetric


class LogitProxy:
    """Guesses what soups score from `logits`, [ingredient][task] float32 [b, classes], on the images of `part`.

    Of zero-shot models the logits are cosines: the scales of fine-tunes of one model differ by little, and so does the
    mean. `pruned` counts the soups that strategies turned away by guesses alone.
    """

    def __init__(self, part: Part, logits: Sequence[Sequence[np.ndarray]]) -> None:
        self.part, self._logits = part, logits
        self.guesses: list[tuple[float, float]] = []  # what was guessed, and what was scored
        self.pruned = 0
        self._hits: dict[Soup, np.ndarray] = {}

    def value(self, soup: Soup) -> float:
        """Return the guessed score of a mean, or a weighted one, of ingredients: a fraction."""
        return self.part.metric.worth(self._guessed(soup)) / self.part.metric.scale

    def doubt(self, one: Soup, other: Soup) -> float:
        """Return the standard error of the difference of two guesses: of the images on which they differ."""
        return float(np.sqrt((self._guessed(one) != self._guessed(other)).sum())) / len(self.part.rows)

    def prune(self, soups: int) -> None:
        """Note that so many soups were turned away by guesses alone."""
        self.pruned += soups

    def _guessed(self, soup: Soup) -> np.ndarray:
        """Return what a soup is guessed to get right, bool [b]."""
        if soup not in self._hits:
            self._hits[soup] = np.concatenate([self._of_task(soup, t) for t in range(len(self.part.labels))])
        return self._hits[soup]

    def _of_task(self, soup: Soup, t: int) -> np.ndarray:
        blocks = soup.weights.values() if isinstance(soup.weights, dict) else [soup.weights]
        shares = np.mean([np.asarray(weights) / np.sum(weights) for weights in blocks], axis=0)
        total = sum(s * self._logits[m][t] for s, m in zip(shares, soup.members, strict=True))
        return np.asarray(total).argmax(axis=1) == self.part.labels[t]

    def compare(self, soup: Soup, value: float) -> None:
        """Note what a soup scored for real."""
        if len(soup.members) > 1:
            self.guesses.append((self.value(soup), value))

    def agreement(self, share: float) -> dict[str, Any]:
        """Return how well guesses and scores agreed: Spearman's rank correlation (None where it is not defined), the
        mean of guess minus score, and the largest distance of the two, over the soups of several that were scored
        whole; and how many were not scored at all."""
        said: dict[str, Any] = {
            "share": share, "images": len(self.part.rows), "soups": len(self.guesses), "pruned": self.pruned,
        }  # fmt: skip
        if not self.guesses:
            return said
        guessed, scored = np.array(self.guesses).T
        vary = len(self.guesses) > 2 and np.ptp(guessed) > 0 and np.ptp(scored) > 0
        rank = float(spearmanr(guessed, scored)[0]) if vary else None
        apart = guessed - scored
        return {
            **said, "rank_correlation": rank, "bias": float(apart.mean()), "largest": float(np.abs(apart).max()),
        }  # fmt: skip


def draw_part(sizes: Sequence[int], share: float, least: int, seed: int) -> list[np.ndarray]:
    """Return which images of each task stand for all, int64 each in order: `share` of them at random, but at least
    `least` where there are so many."""
    generator = np.random.default_rng([seed, 17])
    chosen = [min(n, max(least, round(share * n))) for n in sizes]
    return [np.sort(generator.choice(n, k, replace=False)) for n, k in zip(sizes, chosen, strict=True)]


def keep_logits(path: Path, logits: Sequence[np.ndarray]) -> None:
    """Keep an ingredient's logits of each task in one file. Raises StorageError."""
    write_whole(path, lambda file: np.savez(file, *logits))


def read_logits(path: Path, shapes: Sequence[tuple[int, int]]) -> list[np.ndarray] | None:
    """Return the logits in a file, of these shapes; None where it holds no such."""
    try:
        with np.load(path, allow_pickle=False) as file:
            logits = [file[f"arr_{t}"] for t in range(len(shapes))]
    except (OSError, ValueError, KeyError, EOFError):
        return None
    except Exception:  # a file that a full disk cut short: zipfile has errors of its own
        return None
    return logits if [array.shape for array in logits] == list(shapes) else None
