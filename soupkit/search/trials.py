"""The trials of one search: scored, decided, written to the journal; and what they add up to."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any

import numpy as np

from soupkit.evaluation.data import Score
from soupkit.evaluation.metrics import wilson
from soupkit.search.journal import Journal
from soupkit.search.options import SearchOptions
from soupkit.search.scoring import Scorer, Seen
from soupkit.search.stopping import open_rule
from soupkit.search.strategies import Standing


@dataclass(frozen=True, slots=True)
class Decision:
    """One trial. `soup` is what was tried; `value` is None where the trial ended early, after `images` images, of which
    `images_scored` were not known from an earlier trial; `hits` are those on all of them, or None."""

    n: int
    action: str
    ref: str
    soup: tuple[str, ...]
    value: float | None
    low: float | None
    high: float | None
    hits: int | None
    images_scored: int
    images: int
    decision: str


class SearchTrials:
    """Carries out what strategies ask for. `best` is the best soup so far."""

    def __init__(self, scorer: Scorer, journal: Journal, options: SearchOptions) -> None:
        self.scorer, self.journal, self.options = scorer, journal, options
        self.pool = scorer.pool
        self.ingredients: list[Seen] = []
        self.decisions: list[Decision] = []
        self.best: Standing | None = None
        self._seen: dict[tuple[int, ...], Seen] = {}
        self._disagreement = np.zeros(scorer.n)

    def score_ingredients(self) -> list[int]:
        """Score every ingredient alone; returns them from the best to the worst, ties as they were given."""
        scorer = self.scorer
        scorer.progress.start(f"scoring {len(self.pool)} ingredients", len(self.pool) * scorer.n, "images")
        for m, ref in enumerate(self.pool.refs):
            seen = scorer.individual(m)
            self.ingredients.append(seen)
            self._seen[(m,)] = seen
            self._record({"ingredient": ref, "value": scorer.value(seen), "hits": seen.count})
        scorer.progress.finish()
        hits = [seen.hits for seen in self.ingredients if seen.hits is not None]
        if hits:
            right = np.mean(hits, axis=0)
            self._disagreement = np.minimum(right, 1 - right)
        worth = [_known(seen) for seen in self.ingredients]
        return sorted(range(len(worth)), key=lambda m: -worth[m])

    def start(self, members: tuple[int, ...]) -> Standing:
        """Score a soup in full and begin with it."""
        seen = self._seen.get(members) if len(members) == 1 else self._whole(members, "all ingredients")
        assert seen is not None
        if len(members) == 1:
            seen = Seen(seen.worth, seen.hits, seen.count, seen.images, 0, seen.scores)
        self._note("start", members[-1], members, seen, accepted=True)
        return self._stands(members, seen)

    def trial(
        self, current: Standing, members: tuple[int, ...], action: str, candidate: int, *, strict: bool = False
    ) -> Standing | None:
        """Score a soup as far as the rule needs; what becomes of it if it is accepted, else None."""
        strict = strict or self.options.accept == "gt"
        words = {"add": "adding", "remove": "without", "swap": "with"}
        label = (
            f"trial {len(self.decisions)}, soup of {len(current.members)}: {words[action]} {self.pool.refs[candidate]}"
        )
        if self.scorer.by_hits:
            assert current.hits is not None and self.scorer.metric is not None
            rule = open_rule(
                self.options.stopping,
                current.hits,
                self._disagreement,
                self.scorer.metric,
                strict=strict,
                error_rate=self.options.error_rate,
                seed=(self.options.seed, len(self.decisions)),
            )
            self.scorer.progress.start(label, self.scorer.n, "images")
            seen = self.scorer.examine(members, rule)
            self.scorer.progress.finish()
        else:
            seen = self._whole(members, label)
        accepted = seen.worth is not None and (seen.worth > current.worth if strict else seen.worth >= current.worth)
        self._note(action, candidate, members, seen, accepted=accepted)
        return self._stands(members, seen) if accepted else None

    def _whole(self, members: tuple[int, ...], label: str) -> Seen:
        self.scorer.progress.start(label, self.scorer.n, "images")
        seen = self.scorer.examine(members, None) if self.scorer.by_hits else self.scorer.whole(members)
        self.scorer.progress.finish()
        return seen

    def seen(self, members: tuple[int, ...]) -> Seen:
        """Return all of a soup's scores, of one that was accepted or of any other."""
        if members not in self._seen:
            self._seen[members] = self._whole(members, f"soup of {len(members)}")
        return self._seen[members]

    def _stands(self, members: tuple[int, ...], seen: Seen) -> Standing:
        self._seen[members] = seen
        standing = Standing(members, _known(seen), seen.hits)
        if self.best is None or standing.worth >= self.best.worth:
            self.best = standing
        return standing

    def _note(self, action: str, candidate: int, members: Sequence[int], seen: Seen, *, accepted: bool) -> None:
        low, high = self._interval(seen)
        decision = Decision(
            n=len(self.decisions),
            action=action,
            ref=self.pool.refs[candidate],
            soup=tuple(self.pool.refs[m] for m in members),
            value=self.scorer.value(seen),
            low=low,
            high=high,
            hits=seen.count if seen.scored == seen.images or seen.worth is not None else None,
            images_scored=seen.scored,
            images=seen.images,
            decision="accepted" if accepted else "rejected",
        )
        self._record({**asdict(decision), "bits": f"hits/{self.scorer.key(members)}"})
        self.decisions.append(decision)

    def _record(self, line: dict[str, Any]) -> None:
        self.scorer.ranks.lead(lambda: self.journal.record(line))

    def _interval(self, seen: Seen) -> tuple[float | None, float | None]:
        """Return the 95 % interval of a score: its task's own, or the root of the tasks' summed squares."""
        if not seen.scores:
            return None, None
        if len(seen.scores) == 1 and seen.scores[0].metric == "acc1":
            assert seen.count is not None
            return wilson(seen.count, seen.images)
        score: Score = self.scorer.combined(seen)
        return score.low, score.high


def _known(seen: Seen) -> int | float:
    assert seen.worth is not None
    return seen.worth


def spread(seen: Seen) -> float:
    """Return half the width of the 95 % interval of a score."""
    return sqrt(sum(((s.high - s.low) / 2) ** 2 for s in seen.scores)) / len(seen.scores)
