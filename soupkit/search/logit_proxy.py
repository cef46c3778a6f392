"""Averages of the ingredients' logits in the place of soups (RADIN, Menes and Risser-Maroix 2024, "RADIN: Souping on a
Budget", https://arxiv.org/abs/2401.17790): what a soup will score is guessed without a forward pass.

Every ingredient's logits are taken on a part of the images, once. A soup's are guessed to be their mean, with the
soup's shares; the guess orders and prunes trials, and what is accepted is scored for real.

What soups are ranked by is no count of hits: a part is small, and the probability of the right class tells more of each
image. On two pools of 32 fine-tunes probabilities on 5 % of the images ranked the ingredients as hits on 15 % did.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from soupkit.evaluation.calibration import best_temperature, chances_of
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
    mean. Probabilities are those at the one temperature of each task that fits all ingredients best. `pruned` counts
    the soups that strategies turned away by guesses alone.
    """

    def __init__(self, part: Part, logits: Sequence[Sequence[np.ndarray]]) -> None:
        self.part, self._logits = part, logits
        self.guesses: list[tuple[float, float]] = []  # what was guessed, and what was scored
        self.pruned = 0
        self._hits: dict[Soup, np.ndarray] = {}
        self._temperatures = [self._temperature(t) for t in range(len(part.labels))]

    def _temperature(self, t: int) -> float:
        logits = np.concatenate([of_ingredient[t] for of_ingredient in self._logits])
        labels = np.tile(self.part.labels[t], len(self._logits))
        return best_temperature(logits, labels, 1.0, np.arange(len(labels))) or 1.0

    def promise(self, soup: Soup) -> float:
        """Return what soups are ranked by: the mean probability of the right class, each image weighted by its worth
        in the score."""
        right = [
            chances_of(self._mean(soup, t), labels, 1 / self._temperatures[t], fits=False).log_truth
            for t, labels in enumerate(self.part.labels)
        ]
        weights = self.part.metric.weights
        return float(np.exp(np.concatenate(right)) @ weights / weights.sum())

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
            hits = [self._mean(soup, t).argmax(axis=1) == labels for t, labels in enumerate(self.part.labels)]
            self._hits[soup] = np.concatenate(hits)
        return self._hits[soup]

    def _mean(self, soup: Soup, t: int) -> np.ndarray:
        """Return the mean logits of a soup's members on task number `t`, float32 [b, classes]."""
        blocks = soup.weights.values() if isinstance(soup.weights, dict) else [soup.weights]
        shares = np.mean([np.asarray(weights) / np.sum(weights) for weights in blocks], axis=0)
        return np.asarray(sum(s * self._logits[m][t] for s, m in zip(shares, soup.members, strict=True)))

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
