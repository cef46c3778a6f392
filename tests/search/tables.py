"""Pools that are tables of random hits, for strategies and rules: every soup has its own, from its members' margins."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from soupkit.search.candidate import ScoredSoup, SearchInputs, ShareGradient, Soup, uniform
from soupkit.search.hit_score import HitMetric
from soupkit.search.stopping import open_rule


def hash_of(text: str) -> int:
    """A number for a text, the same in every process."""
    return sum(map(ord, text))


class TableGradient:
    """The gradient of the logistic loss of mixed margins, by the shares that they are mixed with."""

    def __init__(self, margins: np.ndarray, seed: int) -> None:
        self.margins, self.images = margins, margins.shape[1]

    def batches(self, size: int, seed: Sequence[int]) -> Iterator[np.ndarray]:
        order = np.random.default_rng(list(seed)).permutation(self.images)
        yield from (order[start : start + size] for start in range(0, len(order), size))

    def of(
        self, members: Sequence[int], blocks: Sequence[str], shares: np.ndarray, factor: float, images: np.ndarray
    ) -> ShareGradient:
        own = self.margins[np.ix_(members, images)]
        margins = shares.mean(axis=0) @ own
        by_margin = -1 / (1 + np.exp(factor * margins)) / len(images)
        loss = float(np.log1p(np.exp(-factor * margins)).mean())
        by_share = np.tile(factor * (own @ by_margin) / len(blocks), (len(blocks), 1))
        return ShareGradient(loss, float(by_margin @ margins), by_share)


class Tables:
    """What strategies may ask for, answered from `margins` (float64 [models, images]): an image is right above 0.

    `soups` are those that were scored in full, as often as they were.
    """

    def __init__(
        self, margins: np.ndarray, metric: HitMetric, rule: str = "none", *, strict: bool = False, step: int = 32,
        pull: bool = True, seed: int = 0,
    ) -> None:  # fmt: skip
        self.pull = pull
        self.margins, self.metric, self.rule, self.strict, self.step = margins, metric, rule, strict, step
        self.alone = margins > 0
        share = self.alone.mean(axis=0)
        self.disagreement = np.minimum(share, 1 - share)
        self.images, self.trials = 0, 0
        self.soups: list[Soup] = []
        self.actions: set[str] = set()
        self.scored: dict[Soup, int] = {uniform([m]): self.worth(uniform([m])) for m in range(len(margins))}
        self.first: ScoredSoup | None = None
        self.facts: dict[str, Any] = {}
        self.guesser: Any = None
        self.gradient = TableGradient(margins, seed)
        self.seed = seed
        refs = tuple(f"ingredient{m}" for m in range(len(margins)))
        self.inputs = SearchInputs(refs, ("first half", "second half"), ("visual.proj", "text_projection"), "base")

    @property
    def proxy(self) -> Any:
        return self.guesser

    @property
    def ingredient_scores(self) -> np.ndarray:
        return np.stack([half.mean(axis=1) for half in np.array_split(self.alone, 2, axis=1)])

    def by_members(self) -> dict[frozenset[int], float]:
        best: dict[frozenset[int], float] = {}
        for soup, worth in self.scored.items():
            members, value = frozenset(soup.members), worth / self.metric.scale
            best[members] = max(best.get(members, value), value)
        return best

    def value_of(self, soup: Soup) -> float | None:
        return self.scored[soup] / self.metric.scale if soup in self.scored else None

    def state(self, **facts: Any) -> None:
        self.facts |= facts

    def expect(self, n: int) -> None:
        assert n >= 0

    def agree(self, value: Any) -> Any:
        return value

    def hits(self, soup: Soup) -> np.ndarray:
        if soup.use is not None:
            return self.by_method(soup)
        return self.margins_of(soup) > 0

    def margins_of(self, soup: Soup) -> np.ndarray:
        """By how much a mean, or a weighted one, gets each image right."""
        blocks = soup.weights.values() if isinstance(soup.weights, dict) else [soup.weights]
        shares = np.mean([np.array(weights) / sum(weights) for weights in blocks], axis=0)
        return shares @ self.margins[list(soup.members)] + 0.1 * (len(soup.members) > 1)

    def by_method(self, soup: Soup) -> np.ndarray:
        """Hits of a merge by any method: of the mean margins, moved by what the method and its numbers are."""
        assert soup.use is not None
        moved = sum(0.1 * v * (1.5 - v) for _, v in soup.use.parameters if isinstance(v, float))
        lean = (hash_of(soup.use.method) % 7 - 3) / 30
        return self.margins[list(soup.members)].mean(axis=0) + moved + lean > 0

    def worth(self, soup: Soup) -> int:
        return self.metric.worth(self.hits(soup))

    def start(self, soup: Soup) -> ScoredSoup:
        begun = self.full(soup)
        self.first = self.first or begun
        return begun

    def full(self, soup: Soup) -> ScoredSoup:
        self.scored[soup] = self.worth(soup)
        return ScoredSoup(soup, self.scored[soup], self.hits(soup))

    def measure(self, current: ScoredSoup, soup: Soup, action: str) -> ScoredSoup:
        self.trials += 1
        self.actions.add(action)
        self.soups.append(soup)
        return self.full(soup)

    def trial(
        self, current: ScoredSoup, soup: Soup, action: str, candidate: int | None, *, strict: bool = False
    ) -> ScoredSoup | None:
        hits, strict = self.hits(soup), strict or self.strict
        self.actions.add(action)
        assert current.hits is not None
        rule = open_rule(
            self.rule, current.hits, self.disagreement, self.metric, strict=strict, seed=(0, self.trials),
            pulls_to=self.alone[candidate] if self.pull and candidate is not None else None,
            margins=None if {*current.members}.isdisjoint(soup.members) else np.abs(self.margins_of(current.soup)),
        )  # fmt: skip
        self.trials += 1
        for start in range(0, len(hits), self.step):
            part = rule.order[start : start + self.step]
            self.images += len(part)
            if rule.sees(part, hits[part]):
                return None
        self.soups.append(soup)
        found = self.full(soup)
        better = found.worth > current.worth if strict else found.worth >= current.worth
        return found if better else None

    def order(self) -> list[int]:
        worth = [self.worth(uniform([m])) for m in range(len(self.margins))]
        return sorted(range(len(worth)), key=lambda m: -worth[m])
