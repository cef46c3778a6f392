"""The trials of one search: scored, decided, written to the journal; and what they add up to."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any, TypeVar

import numpy as np

from soupkit.evaluation.intervals import wilson
from soupkit.evaluation.task import Score
from soupkit.search.candidate import ScoredSoup, Soup, uniform
from soupkit.search.journal import Journal
from soupkit.search.options import SearchOptions
from soupkit.search.scoring import Measured, Scorer
from soupkit.search.stopping import Rule, open_rule
from soupkit.search.time_left import Outlook

T = TypeVar("T")

_TELLING = 0.05  # half an interval beyond which a task says little about fine-tunes of one model


@dataclass(frozen=True, slots=True)
class Decision:
    """One trial. `soup` is what was tried, with its `weights` (None: uniform); `ref` is the ingredient it is about,
    None for a mixture; `value` is None where the trial ended early, after `images` images, of which `images_scored`
    were not known from an earlier trial; `hits` are those on all of them, or None."""

    n: int
    action: str
    ref: str | None
    soup: tuple[str, ...]
    weights: list[float] | dict[str, list[float]] | None
    value: float | None
    low: float | None
    high: float | None
    hits: int | None
    images_scored: int
    images: int
    decision: str


class SearchTrials:
    """Carries out what strategies ask for. `best` is the best soup so far; `after` images are scored in the end."""

    def __init__(self, scorer: Scorer, journal: Journal, options: SearchOptions, after: int = 0) -> None:
        self.scorer, self.journal, self.options = scorer, journal, options
        self.pool = scorer.pool
        self.ingredients: list[Measured] = []
        self.decisions: list[Decision] = []
        self.best: ScoredSoup | None = None
        self._seen: dict[Soup, Measured] = {}
        self._disagreement = np.zeros(scorer.n)
        self._outlook = Outlook(scorer.n, after)

    def score_ingredients(self) -> list[int]:
        """Score every ingredient alone; returns them from the best to the worst, ties as they were given."""
        scorer = self.scorer
        scorer.progress.start(f"scoring {len(self.pool)} ingredients", len(self.pool) * scorer.n, "images")
        for m, ref in enumerate(self.pool.refs):
            self._outlook.begin(scorer.learned)
            seen = scorer.individual(m)
            self._outlook.end(scorer.learned, trial=False)
            self.ingredients.append(seen)
            self._seen[uniform([m])] = seen
            self._record({"ingredient": ref, "value": scorer.value(seen), "hits": seen.count})
        scorer.progress.finish()
        hits = [seen.hits for seen in self.ingredients if seen.hits is not None]
        if hits:
            right = np.mean(hits, axis=0)
            self._disagreement = np.minimum(right, 1 - right)
        worth = [_known(seen) for seen in self.ingredients]
        return sorted(range(len(worth)), key=lambda m: -worth[m])

    @property
    def doubts(self) -> list[str]:
        """What a person should know before the first trial of the tasks that select."""
        scorer, found = self.scorer, []
        if not scorer.by_hits and self.options.stopping != "none":
            metrics = ", ".join(dict.fromkeys(t.metric for t in scorer.tasks))
            found.append(f"the score ({metrics}) is no sum of hits: every trial is a full pass")
        worth = [_known(seen) for seen in self.ingredients]
        if (half := spread(self.ingredients[worth.index(max(worth))])) > _TELLING:
            found.append(
                f"{scorer.n} images select: scores are known to +-{100 * half:.1f} points, too few to tell the "
                "ingredients apart"
            )
        return found

    def expect(self, n: int) -> None:
        """So many more trials are to come."""
        self._outlook.expect(n)

    def agree(self, value: T) -> T:
        """Return the first rank's `value` on every rank."""
        return self.scorer.ranks.gather(value)[0]

    def start(self, soup: Soup) -> ScoredSoup:
        """Score a soup in full and begin with it."""
        known = soup in self._seen
        seen = self.seen(soup, "all ingredients")
        seen = _without_images(seen) if known else seen
        self._note("start", soup.members[-1], soup, seen, accepted=True)
        return self._stands(soup, seen)

    def trial(
        self, current: ScoredSoup, soup: Soup, action: str, candidate: int | None, *, strict: bool = False
    ) -> ScoredSoup | None:
        """Score a soup as far as the rule needs; what becomes of it if it is accepted, else None."""
        strict = strict or self.options.accept == "gt"
        brings = candidate if action in ("add", "swap") else None
        pulls_to = self.ingredients[brings].hits if brings is not None else None
        rule = self._rule(current, pulls_to, strict=strict) if self.scorer.by_hits else None
        seen = self._tried(current, soup, action, candidate, rule)
        accepted = seen.worth is not None and (seen.worth > current.worth if strict else seen.worth >= current.worth)
        self._note(action, candidate, soup, seen, accepted=accepted)
        return self._accepted(soup, seen) if accepted else None

    def measure(self, current: ScoredSoup, soup: Soup, action: str) -> ScoredSoup:
        """Score a soup in full; it is accepted if its score is higher than the current one's."""
        seen = self._tried(current, soup, action, None, None)
        accepted = _known(seen) > current.worth
        self._note(action, None, soup, seen, accepted=accepted)
        return self._accepted(soup, seen) if accepted else ScoredSoup(soup, _known(seen), seen.hits)

    def _rule(self, current: ScoredSoup, pulls_to: np.ndarray | None, *, strict: bool) -> Rule:
        assert current.hits is not None and self.scorer.metric is not None
        return open_rule(
            self.options.stopping,
            current.hits,
            self._disagreement,
            self.scorer.metric,
            strict=strict,
            error_rate=self.options.error_rate,
            seed=(self.options.seed, len(self.decisions)),
            pulls_to=pulls_to,
        )

    def _tried(
        self, current: ScoredSoup, soup: Soup, action: str, candidate: int | None, rule: Rule | None
    ) -> Measured:
        """Score a soup for a trial; what is known of it already is not scored again."""
        self._outlook.begin(self.scorer.learned)
        if (known := self._seen.get(soup)) is not None:
            self._outlook.end(self.scorer.learned)
            return _without_images(known)
        label = self._label(current, soup, action, candidate)
        seen = self._scored(soup, label, rule)
        self._outlook.end(self.scorer.learned)
        if seen.worth is not None:
            self._seen[soup] = seen
        return seen

    def _label(self, current: ScoredSoup, soup: Soup, action: str, candidate: int | None) -> str:
        """Say how far the search is: the trial, the soup so far, what is tried, and what is left of it all."""
        value = current.worth / self.scorer.metric.scale if self.scorer.metric else current.worth
        words = {"add": "adding ", "remove": "without ", "swap": "with ", "mix": f"a mixture of {len(soup.members)}"}
        name = self.pool.refs[candidate] if candidate is not None else ""
        return (
            f"{self._outlook.place}, soup of {len(current.members)} at {100 * value:.2f} %: {words[action]}{name}"
            f"{self._outlook.left()}"
        )

    def _scored(self, soup: Soup, label: str, rule: Rule | None = None) -> Measured:
        self.scorer.progress.start(label, self.scorer.n, "images")
        seen = self.scorer.examine(soup, rule) if self.scorer.by_hits else self.scorer.whole(soup)
        self.scorer.progress.finish()
        return seen

    def seen(self, soup: Soup, label: str = "") -> Measured:
        """Return all of a soup's scores, of one that was accepted or of any other."""
        if soup not in self._seen:
            self._seen[soup] = self._scored(soup, label or f"soup of {len(soup.members)}")
        return self._seen[soup]

    def best_so_far(self) -> tuple[Soup, float] | None:
        """Return the best soup so far with its score as a fraction, or the best ingredient before there is one."""
        known = [(uniform([m]), _known(seen)) for m, seen in enumerate(self.ingredients)]
        if self.best is not None:
            known = [(self.best.soup, self.best.worth)]
        if not known:
            return None
        soup, worth = max(known, key=lambda pair: pair[1])
        return soup, worth / self.scorer.metric.scale if self.scorer.metric else worth

    def by_members(self) -> dict[frozenset[int], float]:
        """Return the best score among the soups of the same members, for those that were scored in full."""
        best: dict[frozenset[int], float] = {}
        for soup, seen in self._seen.items():
            value, members = self.scorer.value(seen), frozenset(soup.members)
            assert value is not None
            best[members] = max(best.get(members, 0.0), value)
        return best

    def _accepted(self, soup: Soup, seen: Measured) -> ScoredSoup:
        if self._outlook.fresh and self.scorer.ranks.leads:
            names = ", ".join(self.pool.refs[m] for m in soup.members)
            kind = "soup" if soup.shares is None else "mixture"
            value = self.scorer.value(seen)
            assert value is not None
            self.scorer.progress.note(f"accepted, {100 * value:.2f} %: the {kind} of {names}")
        return self._stands(soup, seen)

    def _stands(self, soup: Soup, seen: Measured) -> ScoredSoup:
        standing = ScoredSoup(soup, _known(seen), seen.hits)
        if self.best is None or standing.worth >= self.best.worth:
            self.best = standing
        return standing

    def _note(self, action: str, candidate: int | None, soup: Soup, seen: Measured, *, accepted: bool) -> None:
        low, high = self._interval(seen)
        decision = Decision(
            n=len(self.decisions),
            action=action,
            ref=self.pool.refs[candidate] if candidate is not None else None,
            soup=tuple(self.pool.refs[m] for m in soup.members),
            weights=soup.weights if soup.shares is not None else None,
            value=self.scorer.value(seen),
            low=low,
            high=high,
            hits=seen.count if seen.scored == seen.images or seen.worth is not None else None,
            images_scored=seen.scored,
            images=seen.images,
            decision="accepted" if accepted else "rejected",
        )
        self._record({**asdict(decision), "bits": f"hits/{self.scorer.key(soup)}"})
        self.decisions.append(decision)

    def _record(self, line: dict[str, Any]) -> None:
        self.scorer.ranks.lead(lambda: self.journal.record(line))

    def _interval(self, seen: Measured) -> tuple[float | None, float | None]:
        """Return the 95 % interval of a score: its task's own, or the root of the tasks' summed squares."""
        if not seen.scores:
            return None, None
        if len(seen.scores) == 1 and seen.scores[0].metric == "acc1":
            assert seen.count is not None
            return wilson(seen.count, seen.images)
        score: Score = self.scorer.combined(seen)
        return score.low, score.high


def _known(seen: Measured) -> int | float:
    assert seen.worth is not None
    return seen.worth


def _without_images(seen: Measured) -> Measured:
    """What was seen before, as a trial that scores no image."""
    return Measured(seen.worth, seen.hits, seen.count, seen.images, 0, seen.scores)


def spread(seen: Measured) -> float:
    """Return half the width of the 95 % interval of a score."""
    return sqrt(sum(((s.high - s.low) / 2) ** 2 for s in seen.scores)) / len(seen.scores)


def tasks_by_ingredients(ingredients: Sequence[Measured]) -> np.ndarray:
    """Return the ingredients' scores on each selecting task, float64 [tasks, ingredients]."""
    return np.array([[score.value for score in seen.scores] for seen in ingredients]).T
