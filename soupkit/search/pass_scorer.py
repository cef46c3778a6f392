"""Scores that are no sums of hits, such as mean average precision or the entropy: by whole passes over the tasks."""

import json
from dataclasses import asdict
from pathlib import Path

from soupkit.evaluation.adapter import logit_scale
from soupkit.evaluation.calibration import with_chances
from soupkit.evaluation.outcomes import score_of
from soupkit.evaluation.task import Score
from soupkit.files import parse_json, read_text, write_cached
from soupkit.search.candidate import Soup, uniform
from soupkit.search.document import SearchScore
from soupkit.search.live_soups import LiveSoups
from soupkit.search.measured import Measured, Unit, shown
from soupkit.search.names import SCORES
from soupkit.search.stopping import Rule


class PassScorer:
    """Scores soups on the selecting tasks of `live`, each by one pass; what they score is kept in `directory`.

    `minimized` names a metric beside the tasks' main ones, a low value of which is good; without it these count.
    """

    counts, stops, metric = "images", False, None

    def __init__(self, live: LiveSoups, directory: Path, minimized: str | None = None) -> None:
        self._minimized, self.minimizes = minimized, minimized is not None
        self._live, self._directory = live, directory / SCORES
        self.n = sum(len(pixels.rows) for pixels in live.evaluator.pixels[: len(live.selecting)])
        self.scored = 0
        self._counted: set[str] = set()

    @property
    def unit(self) -> Unit:
        """A fraction, or a number where the metric is a minimized one."""
        return "fraction" if self._minimized is None else "number"

    def individual(self, m: int) -> Measured:
        """Score ingredient `m` alone."""
        return self.examine(uniform([m]), None)

    def examine(self, soup: Soup, rule: Rule | None) -> Measured:
        """Score `soup` on every image: no rule can end it earlier."""
        live, key = self._live, self._live.key(soup)
        path = self._directory / f"{key}.json"
        scores = live.ranks.lead(read_scores, path, len(live.selecting))
        if scores is None:
            live.fill(soup)
            self.scored += self.n
            named, evaluator = live.named(soup), live.evaluator
            outcomes = [
                evaluator.run(t, [live.text_side(t)], None, live.progress)[0] for t in range(len(live.selecting))
            ]
            if self._minimized is not None:
                scale = logit_scale(evaluator.model)
                outcomes = [with_chances(outcome, scale, fits=False) for outcome in outcomes]
            scores = tuple(score_of(o, task, *named) for o, task in zip(outcomes, live.selecting, strict=True))
            if live.ranks.leads:
                write_cached(path, json.dumps([asdict(score) for score in scores]))
        scored = 0 if key in self._counted else self.n
        self._counted.add(key)
        told = tuple(map(shown, scores))
        if self._minimized is not None:
            told = tuple(_by_metric(score, self._minimized) for score in told)
        mean = sum(score.value for score in told) / len(told)
        worth = mean if self._minimized is None else -mean
        return Measured(worth, mean, None, None, self.n, scored, told)


def _by_metric(score: SearchScore, name: str) -> SearchScore:
    """Return a score with its metric `name` as the value, and its main one among the metrics."""
    value = score.metrics[name]
    assert value is not None
    return score.model_copy(update={"metric": name, "value": value, "low": None, "high": None, "unit": "number"})


def read_scores(path: Path, n: int) -> tuple[Score, ...] | None:
    """Return the `n` scores in a file of them; None where it does not hold so many."""
    try:
        scores = tuple(Score(**entry) for entry in parse_json(read_text(path)))
    except (OSError, ValueError, TypeError):
        return None
    return scores if len(scores) == n else None
