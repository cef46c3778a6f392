"""Scores candidates of one architecture in one live model: each image tower goes once over a task's images, with every
text tower that is asked for beside it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from soupkit.evaluation.calibration import reliability_bins, with_chances
from soupkit.evaluation.candidates import Candidate, by_image_tower
from soupkit.evaluation.evaluator import Evaluator
from soupkit.evaluation.options import EvaluationOptions
from soupkit.evaluation.outcomes import Outcome, class_counts, hits_of, score_of
from soupkit.evaluation.pixels import Pixels
from soupkit.evaluation.score_cache import Images, ScoreCache
from soupkit.evaluation.task import Bin, Score, Task
from soupkit.progress import Progress
from soupkit.ranks import Ranks
from soupkit.text import counted

Cell = tuple[int, int]  # the number of a candidate, and that of a task


@dataclass(slots=True)
class Results:
    """What an evaluation has so far: scores, hits, bins of the confidence and counts by class (images, and those that
    are right) by candidate and task, images by task, seconds by step."""

    scores: dict[Cell, Score] = field(default_factory=dict)
    hits: dict[Cell, np.ndarray] = field(default_factory=dict)
    bins: dict[Cell, tuple[Bin, ...]] = field(default_factory=dict)
    classes: dict[Cell, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    images: dict[int, Images] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("open", "text", "images"), 0.0))

    def spent(self, step: str, began: float) -> float:
        """Add the seconds since `began` to those of `step`, and return what time it is."""
        now = time.perf_counter()
        self.timings[step] += now - began
        return now


def images_of(pixels: Pixels) -> Images:
    """Return which images a score on these pixels counts."""
    keys, hashes = (tuple(names[row] for row in pixels.rows) for names in (pixels.keys, pixels.hashes))
    return Images(keys, hashes)


@dataclass(frozen=True, slots=True)
class Group:
    """Candidates of one architecture and the tasks on which any of them has no score yet, both by their numbers; `keys`
    name the scores that are `missing`; `keep_images` is told the images of each task."""

    candidates: dict[int, Candidate]
    tasks: dict[int, Task]
    missing: frozenset[Cell]
    keys: dict[Cell, str]
    cache: ScoreCache
    keep_images: Callable[[int, Images], None]
    options: EvaluationOptions
    ranks: Ranks
    progress: Progress

    def score(self, results: Results) -> None:
        """Add what is missing to `results`, image tower by image tower."""
        began = time.perf_counter()
        first = next(iter(self.candidates.values()))
        towers = by_image_tower(self.candidates, list(self.candidates))
        with Evaluator(
            first.config, list(self.tasks.values()), self.options,
            tokenizer_files=first.checkpoint.tokenizer_files, where=first.ref, progress=self.progress, ranks=self.ranks,
        ) as evaluator:  # fmt: skip
            self._note_images(evaluator, results)
            began = results.spent("open", began)
            passes = sum(len(results.images[t].keys) for tower in towers for t in self.tasks if self._asked(tower, t))
            self.progress.start(
                f"scoring {counted(len(self.candidates), 'model')} on {counted(len(self.tasks), 'task')}",
                passes,
                "images",
            )
            sides: dict[tuple[str, int], Tensor] = {}
            scales: dict[int, float] = {}
            for i, tower in enumerate(towers):
                self._read_texts(evaluator, tower, sides, scales)
                began = results.spent("text", began)
                self._look_at_images(evaluator, tower, sides, scales, results)
                began = results.spent("images", began)
                # A text tower that no later candidate has is not needed any more: memory stays flat in their number.
                later = {self.candidates[c].fingerprint.text for others in towers[i + 1 :] for c in others}
                sides = {(text, t): side for (text, t), side in sides.items() if text in later}
            self.progress.finish()
        for candidate in self.candidates.values():
            candidate.checkpoint.check_unchanged()

    def _asked(self, tower: Sequence[int], t: int) -> list[int]:
        return [c for c in tower if (c, t) in self.missing]

    def _note_images(self, evaluator: Evaluator, results: Results) -> None:
        for t, pixels in zip(self.tasks, evaluator.pixels, strict=True):
            results.images[t] = images_of(pixels)
            if self.ranks.leads:  # before any score: a kill must not leave scores of images that nobody can name
                self.keep_images(t, results.images[t])

    def _read_texts(
        self, evaluator: Evaluator, tower: Sequence[int], sides: dict[tuple[str, int], Tensor], scales: dict[int, float]
    ) -> None:
        """Add to `sides` what the text towers of these candidates make of the tasks, to `scales` what they multiply
        cosines by. The live model holds the last of them, whose image tower is that of all."""
        for c in tower:
            evaluator.load(self.candidates[c].checkpoint)
            scales[c] = evaluator.scale
            text = self.candidates[c].fingerprint.text
            for i, t in enumerate(self.tasks):
                if (c, t) in self.missing and (text, t) not in sides:
                    sides[text, t] = self.ranks.together(evaluator.text_side, i)

    def _look_at_images(
        self, evaluator: Evaluator, tower: Sequence[int], sides: dict[tuple[str, int], Tensor],
        scales: dict[int, float], results: Results,
    ) -> None:  # fmt: skip
        for i, t in enumerate(self.tasks):
            asked = self._asked(tower, t)
            texts = list(dict.fromkeys(self.candidates[c].fingerprint.text for c in asked))
            if not texts:
                continue
            outcomes = evaluator.run(i, [sides[text, t] for text in texts], None, self.progress)
            by_text = dict(zip(texts, outcomes, strict=True))
            for c in asked:
                outcome = with_chances(by_text[self.candidates[c].fingerprint.text], scales[c])
                self._take(c, t, outcome, results)

    def _take(self, c: int, t: int, outcome: Outcome, results: Results) -> None:
        candidate = self.candidates[c]
        results.scores[c, t] = score_of(outcome, self.tasks[t], candidate.ref, candidate.fingerprint.value)
        if (hits := hits_of(outcome)) is not None:
            results.hits[c, t] = hits
        results.bins[c, t] = reliability_bins(outcome)
        classes = len(self.tasks[t].classnames)
        if (counts := class_counts(outcome, classes)) is not None:
            results.classes[c, t] = counts
        if self.ranks.leads:
            self.cache.put(self.keys[c, t], results.scores[c, t], outcome, classes)
