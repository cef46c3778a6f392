"""The trials of one search: scored, decided, written to the journal; and what they add up to."""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from soupkit.search.candidate import Gradient, ScoredSoup, SearchInputs, Soup, uniform
from soupkit.search.document import Decision
from soupkit.search.hit_scorer import HitScorer
from soupkit.search.ingredients import Ingredients
from soupkit.search.journal import Journal
from soupkit.search.live_soups import soup_key
from soupkit.search.logit_proxy import LogitProxy
from soupkit.search.measured import Measured, Scorer, tasks_by_ingredients
from soupkit.search.narration import Narration
from soupkit.search.options import SearchOptions
from soupkit.search.stopping import Rule, open_rule

T = TypeVar("T")

_LEAST = 100  # images of each task that stand for all, at least: fewer say too little


class SearchTrials:
    """Carries out what strategies ask for: scores soups by `scorer`, decides, and notes each decision in `journal`."""

    def __init__(
        self,
        ingredients: Ingredients,
        inputs: SearchInputs,
        scorer: Scorer,
        journal: Journal,
        options: SearchOptions,
        narration: Narration,
    ) -> None:
        self.ingredients, self.inputs, self.scorer, self.options = ingredients, inputs, scorer, options
        self.seed = options.seed
        self.alone: list[Measured] = []  # the ingredients' own scores
        self.decisions: list[Decision] = []
        self.best: ScoredSoup | None = None  # so far
        self.facts: dict[str, Any] = {}
        self.proxy: LogitProxy | None = None
        self.gradient: Gradient | None = None
        self._journal, self._narration, self._ranks = journal, narration, narration.ranks
        self._measured: dict[Soup, Measured] = {}
        self._disagreement = np.zeros(scorer.n)

    def score_ingredients(self) -> list[int]:
        """Score every ingredient alone; returns them from the best to the worst, ties as they were given."""
        share = self.options.settled.get("proxy") or 0.0
        with self._narration.of_ingredients(len(self.ingredients)):
            if share:
                self._look_at_a_part(share)
            for m, ref in enumerate(self.ingredients.refs):
                if not share:
                    with self._narration.timed(trial=False):
                        self.alone.append(self.scorer.individual(m))
                    self._measured[uniform([m])] = self.alone[m]
                self._record({"ingredient": ref, "value": self.alone[m].value, "hits": self.alone[m].count})
        hits = [measured.hits for measured in self.alone if measured.hits is not None]
        if hits:
            right = np.mean(hits, axis=0)  # [N]
            self._disagreement = np.minimum(right, 1 - right)
        if self.proxy is not None:
            promises = [self.proxy.promise(uniform([m])) for m in range(len(self.alone))]
            return sorted(range(len(self.alone)), key=lambda m: -promises[m])
        return sorted(range(len(self.alone)), key=lambda m: -self.alone[m].whole_worth)

    def best_alone_first(self, order: Sequence[int]) -> list[int]:
        """Return `order` with the best of the ingredients that were scored on every image in front."""
        whole = [m for m in order if uniform([m]) in self._measured]
        best = max(whole, key=lambda m: self._measured[uniform([m])].whole_worth, default=order[0])
        return [best, *(m for m in order if m != best)]

    def _look_at_a_part(self, share: float) -> None:
        """Score every ingredient on a part of the images alone, whose logits then stand for soups."""
        assert isinstance(self.scorer, HitScorer)  # or the search was refused
        part, logits = self.scorer.part(share, _LEAST, self.seed), []
        right = np.zeros(len(part.rows))
        for m in range(len(self.ingredients)):
            with self._narration.timed(trial=False):
                measured, of_ingredient = self.scorer.in_part(m, part)
            self.alone.append(measured)
            logits.append(of_ingredient)
            right += np.concatenate([x.argmax(axis=1) == y for x, y in zip(of_ingredient, part.labels, strict=True)])
        right /= len(self.ingredients)
        disagreement = np.minimum(right, 1 - right)
        self._disagreement = np.full(self.scorer.n, disagreement.mean())
        self._disagreement[part.rows] = disagreement
        self.proxy = LogitProxy(part, logits)

    @property
    def ingredient_scores(self) -> np.ndarray:
        """The ingredients' scores on each task that selects, float64 [tasks, ingredients]."""
        return tasks_by_ingredients(self.alone)

    def expect(self, n: int) -> None:
        """So many more trials are to come."""
        self._narration.time_left.expect(n)

    def agree(self, value: T) -> T:
        """Return the first rank's `value` on every rank."""
        return self._ranks.gather(value)[0]

    def value_of(self, soup: Soup) -> float | None:
        """Return what a soup scored, None where it was not scored to the end."""
        measured = self._measured.get(soup)
        return measured.value if measured is not None else None

    def state(self, **facts: Any) -> None:
        """Put `facts` into `search.json`."""
        self.facts.update(facts)

    def start(self, soup: Soup) -> ScoredSoup:
        """Score a soup in full and begin with it."""
        repeated = soup in self._measured
        measured = self.measured(soup, "all ingredients")
        measured = measured.again() if repeated else measured
        self._decide("start", soup.members[-1], soup, measured, accepted=True)
        return self._current(soup, measured)

    def trial(
        self, current: ScoredSoup, soup: Soup, action: str, candidate: int | None, *, strict: bool = False
    ) -> ScoredSoup | None:
        """Score a soup as far as the rule needs; what becomes of it if it is accepted, else None."""
        strict = strict or self.options.accept == "gt"
        measured = self._tried(current, soup, action, candidate, self._rule(current, soup, candidate, strict=strict))
        worth = measured.worth
        accepted = worth is not None and (worth > current.worth if strict else worth >= current.worth)
        self._decide(action, candidate, soup, measured, accepted=accepted)
        return self._accepted(soup, measured) if accepted else None

    def measure(self, current: ScoredSoup, soup: Soup, action: str) -> ScoredSoup:
        """Score a soup in full; it is accepted if its score is higher than the current one's."""
        measured = self._tried(current, soup, action, None, None)
        accepted = measured.whole_worth > current.worth
        self._decide(action, None, soup, measured, accepted=accepted)
        if accepted:
            return self._accepted(soup, measured)
        return ScoredSoup(soup, measured.whole_worth, measured.hits)

    def _rule(self, current: ScoredSoup, soup: Soup, candidate: int | None, *, strict: bool) -> Rule | None:
        """Return the rule that may end a trial, None where the score is no sum of hits."""
        metric = self.scorer.metric if self.scorer.stops else None
        if metric is None or current.hits is None:
            return None
        brings = candidate if candidate in soup.members else None  # else the trial takes it away
        # Of soups with a member in common alone is it known that they differ where the margin is small.
        akin = not {*current.members}.isdisjoint(soup.members)
        return open_rule(
            self.options.stopping,
            current.hits,
            self._disagreement,
            metric,
            strict=strict,
            error_rate=self.options.error_rate,
            seed=(self.seed, len(self.decisions)),
            pulls_to=self.alone[brings].hits if brings is not None else None,
            margins=self._measured[current.soup].margins if akin else None,
        )

    def _tried(
        self, current: ScoredSoup, soup: Soup, action: str, candidate: int | None, rule: Rule | None
    ) -> Measured:
        """Score a soup for a trial; what is known of it already is not scored again."""
        with self._narration.timed():
            if (measured := self._measured.get(soup)) is not None:
                return measured.again()
            ref = self.ingredients.refs[candidate] if candidate is not None else None
            what = self.options.row.label(action, ref, soup.members)
            value = self._measured[current.soup].whole_value
            with self._narration.of_trial(len(current.members), value, what):
                measured = self.scorer.examine(soup, rule)
        if measured.worth is not None:
            self._measured[soup] = measured
            if self.proxy is not None:
                self.proxy.compare(soup, measured.whole_value)
        return measured

    def measured(self, soup: Soup, label: str = "") -> Measured:
        """Return all of a soup's scores, of one that was accepted or of any other."""
        if soup not in self._measured:
            with self._narration.of_passes(label or f"soup of {len(soup.members)}"):
                self._measured[soup] = self.scorer.examine(soup, None)
        return self._measured[soup]

    def best_so_far(self) -> tuple[Soup, float] | None:
        """Return the best soup so far with its value, or the best ingredient before there is one."""
        if self.best is not None:
            return self.best.soup, self._measured[self.best.soup].whole_value
        if not self.alone:
            return None
        m = max(range(len(self.alone)), key=lambda m: self.alone[m].whole_worth)
        return uniform([m]), self.alone[m].whole_value

    def by_members(self) -> dict[frozenset[int], float]:
        """Return the best score among the soups of the same members, for those that were scored in full."""
        best: dict[frozenset[int], float] = {}
        for soup, measured in self._measured.items():
            members, value = frozenset(soup.members), measured.whole_value
            best[members] = max(best.get(members, value), value)
        return best

    def _accepted(self, soup: Soup, measured: Measured) -> ScoredSoup:
        names = ", ".join(self.ingredients.refs[m] for m in soup.members)
        kind = soup.method if soup.use is not None else "soup" if soup.is_uniform else "mixture"
        self._narration.accepted(measured.whole_value, f"the {kind} of {names}")
        return self._current(soup, measured)

    def _current(self, soup: Soup, measured: Measured) -> ScoredSoup:
        current = ScoredSoup(soup, measured.whole_worth, measured.hits)
        if self.best is None or current.worth >= self.best.worth:
            self.best = current
        return current

    def _decide(self, action: str, candidate: int | None, soup: Soup, measured: Measured, *, accepted: bool) -> None:
        low, high = _interval(measured)
        decision = Decision(
            n=len(self.decisions),
            action=action,
            ref=self.ingredients.refs[candidate] if candidate is not None else None,
            soup=tuple(self.ingredients.refs[m] for m in soup.members),
            weights=soup.weights if soup.shares is not None else None,
            value=measured.value,
            low=low,
            high=high,
            hits=measured.count if measured.scored == measured.images or measured.worth is None else None,
            images_scored=measured.scored,
            images=measured.images,
            method=soup.method if soup.use is not None else None,
            parameters=soup.parameters if soup.use is not None else None,
            decision="accepted" if accepted else "rejected",
        )
        self._record({**decision.to_dict(), "bits": f"hits/{soup_key(self.ingredients, soup)}"})
        self.decisions.append(decision)

    def _record(self, line: dict[str, Any]) -> None:
        self._ranks.lead(self._journal.record, line)


def _interval(measured: Measured) -> tuple[float | None, float | None]:
    """Return the 95 % interval of a score, where it has one."""
    if not measured.scores:
        return None, None
    score = measured.combined()
    return score.low, score.high
