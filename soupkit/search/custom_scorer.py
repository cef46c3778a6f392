"""Soups scored by a score of the user's own, each asked about once; and beside tasks, in a weighted sum with them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from soupkit.evaluation.intervals import wilson
from soupkit.files import write_whole
from soupkit.progress import Progress
from soupkit.ranks import Ranks
from soupkit.search.asked_by_images import ask_by_images
from soupkit.search.candidate import Soup, uniform
from soupkit.search.custom_score import Asker, CustomScore
from soupkit.search.document import SearchScore
from soupkit.search.hit_score import HitMetric, hit_metric
from soupkit.search.hits_file import RIGHT, HitsFile
from soupkit.search.ingredients import Ingredients
from soupkit.search.live_soups import soup_key, soup_name
from soupkit.search.measured import Measured, Scorer, Unit
from soupkit.search.names import ANSWERS, HITS
from soupkit.search.score_answer import Answer, check_alike, check_same, read_kept
from soupkit.search.stopping import Rule

NAME = "score"


@dataclass(frozen=True, slots=True)
class Shower:
    """How a soup is shown to the score (`show`, on every rank together), and how it is asked then (`asker`)."""

    show: Callable[[Soup], None]
    asker: Asker


class CustomScorer:
    """Asks the score about soups; answers are kept in `directory`, one file each, and a soup is asked about once.

    The first one is asked about twice: a score that answers differently cannot tell soups apart.
    """

    n, counts = 1, "answers"

    def __init__(
        self, ingredients: Ingredients, score: CustomScore, shower: Shower, directory: Path, ranks: Ranks,
        progress: Progress,
    ) -> None:  # fmt: skip
        self._ingredients, self._score, self._shower = ingredients, score, shower
        self.minimizes = score.minimize
        self._directory, self._ranks, self._progress = directory / ANSWERS, ranks, progress
        self._hits = directory / HITS
        self._first: Answer | None = None
        self._asked: set[str] = set()
        self.scored = 0

    @property
    def unit(self) -> Unit:
        """A fraction where the value is the share of hits, else a number of the score's own."""
        return "fraction" if self._by_hits else "number"

    @property
    def stops(self) -> bool:
        """Whether a rule can end a trial: where the score says of some images alone what a soup gets right."""
        return self._by_hits and self._shower.asker.by_images

    @property
    def metric(self) -> HitMetric | None:
        """What each image is worth, where the value is the share of hits and is to be large."""
        if self._first is None or self._first.hits is None or not self._by_hits:
            return None
        return hit_metric(["acc1"], [np.zeros(len(self._first.hits), np.int64)])

    @property
    def _by_hits(self) -> bool:
        return self._first is not None and self._first.is_share_of_hits and not self._score.minimize

    def individual(self, m: int) -> Measured:
        """Ask about ingredient `m` alone."""
        return self.examine(uniform([m]), None)

    def examine(self, soup: Soup, rule: Rule | None) -> Measured:
        """Ask about `soup`, unless its answer is kept; where images can be asked about, until `rule` rejects it."""
        if rule is not None and self.stops:
            return self._by_images(soup, rule)
        key, (name, fingerprint) = soup_key(self._ingredients, soup), soup_name(self._ingredients, soup)
        where = f"score of {name}"
        answer = self._answer(soup, key, where)
        if self._first is None:
            check_same(answer, self._answer(soup, f"{key}-again", where), where)
            if answer.is_mean:
                names = ", ".join(answer.metrics)
                self._progress.note(f"{where}: the mean of {names} counts; --score-key NAME chooses one")
            self._first = answer
        check_alike(answer, self._first, where)
        scored, self._asked = int(key not in self._asked), self._asked | {key}
        hits, metric = answer.hits, self.metric
        worth = -answer.value if self._score.minimize else answer.value
        if metric is not None and hits is not None:
            worth = metric.worth(hits)
        told = self._told(answer, name, fingerprint)
        return Measured(worth, answer.value, hits, None, 1, scored, (told,))

    def _by_images(self, soup: Soup, rule: Rule) -> Measured:
        """Ask about images until `rule` rejects `soup`, or about all of them."""
        key, (name, fingerprint) = soup_key(self._ingredients, soup), soup_name(self._ingredients, soup)
        metric = self.metric
        assert metric is not None
        self._shower.show(soup)
        rejected, count, images, hits = self._ranks.lead(self._looked_at, key, rule, len(metric.kinds))
        scored, self._asked = int(key not in self._asked), self._asked | {key}
        self.scored += 1
        self._progress.advance(1)
        if rejected:
            return Measured(None, None, None, count, images, scored)
        answer = Answer(float(hits.mean()), hits)
        told = self._told(answer, name, fingerprint)
        return Measured(metric.worth(hits), answer.value, hits, None, 1, scored, (told,))

    def _looked_at(self, key: str, rule: Rule, n: int) -> tuple[bool, int, int, np.ndarray]:
        """Return whether `rule` rejected the soup, its hits on how many images, and which they are, bool [n]."""
        path, file = self._directory / f"{key}.json", HitsFile(self._hits / key, n, writes=True)
        kept = read_kept(path)
        if kept is not None and kept.hits is not None and len(kept.hits) == n:
            file.known[:], file.flags[:] = True, kept.hits * RIGHT
        rejected, count, images = ask_by_images(file, rule, partial(self._shower.asker.ask_about, key))
        hits = (file.flags & RIGHT).astype(bool)
        if not rejected and kept is None:
            write_whole(path, Answer(float(hits.mean()), hits).to_json())
        return rejected, count, images, hits

    def _answer(self, soup: Soup, key: str, where: str) -> Answer:
        path = self._directory / f"{key}.json"
        answer = self._ranks.lead(read_kept, path)
        if answer is None:
            self._shower.show(soup)
            self.scored += 1
            answer = self._ranks.lead(self._shower.asker.ask, key)
            self._ranks.lead(write_whole, path, answer.to_json())
        self._progress.advance(1)
        return answer

    def _told(self, answer: Answer, name: str, fingerprint: str | None) -> SearchScore:
        low, high = None, None
        if self._by_hits and answer.hits is not None:
            low, high = wilson(int(answer.hits.sum()), len(answer.hits))
        return SearchScore(
            ref=name,
            fingerprint=fingerprint,
            task=NAME,
            metric="minimized" if self._score.minimize else "maximized",
            value=answer.value,
            n=len(answer.hits) if answer.hits is not None else None,
            low=low,
            high=high,
            metrics=dict(answer.metrics),
            unit=self.unit,
        )


class SumScorer:
    """The mean over tasks plus a score of the user's own, `weight` times (minus, where it is to be small).

    No rule ends a trial: what the score will say is not known before it is asked.
    """

    stops, metric, minimizes = False, None, False
    unit: Unit = "number"

    def __init__(self, tasks: Scorer, custom: CustomScorer, weight: float, names: Sequence[str]) -> None:
        self._tasks, self._custom, self._weight = tasks, custom, weight
        self.n, self.counts = tasks.n, tasks.counts
        mean = names[0] if len(names) == 1 else f"mean of {', '.join(names)}"
        self.name = f"{mean} {'+' if weight > 0 else '-'} {abs(weight):g} x {NAME}"

    @property
    def scored(self) -> int:
        """The images that went through a model in this run."""
        return self._tasks.scored

    def individual(self, m: int) -> Measured:
        """Score ingredient `m` on the tasks, and ask about it."""
        return self._sum(self._tasks.individual(m), self._custom.individual(m))

    def examine(self, soup: Soup, rule: Rule | None) -> Measured:
        """Score `soup` on the tasks, and ask about it."""
        return self._sum(self._tasks.examine(soup, None), self._custom.examine(soup, None))

    def _sum(self, tasks: Measured, answer: Measured) -> Measured:
        value = tasks.whole_value + self._weight * answer.whole_value
        scores = (*tasks.scores, *answer.scores)
        whole = SearchScore(
            ref=scores[0].ref,
            fingerprint=scores[0].fingerprint,
            task=self.name,
            metric="sum",
            value=value,
            n=tasks.combined().n,
            metrics={score.task_and_split: score.value for score in scores},
            unit="number",
        )
        return Measured(value, value, None, None, tasks.images, tasks.scored, scores, whole)
