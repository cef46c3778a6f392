"""What soups score on the tasks that select: image by image where the score is a sum of hits, so that a trial can end
early; by whole passes elsewhere."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path

import numpy as np
import xxhash
from torch import Tensor

from soupkit.evaluation.evaluator import Evaluator
from soupkit.evaluation.outcomes import Hits, score_of
from soupkit.evaluation.score_cache import ScoreCache
from soupkit.evaluation.task import Score
from soupkit.files import write_cached
from soupkit.progress import Progress
from soupkit.ranks import Ranks
from soupkit.search.candidate import Soup, uniform
from soupkit.search.hit_score import hit_metric, is_sum_of_hits
from soupkit.search.hits_file import AMONG_FIVE, RIGHT, KnownHits
from soupkit.search.ingredients import Pool
from soupkit.search.running_sum import RunningSum
from soupkit.search.stopping import Rule


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of scoring a soup.

    `worth` is its score in units of the metric, None where the trial ended early; `hits` are bool [N], None for scores
    that are no sums of hits or are not whole; `count` hits were seen on `images` images, `scored` of them for the first
    time; `scores` has one Score per selecting task where it is whole.
    """

    worth: int | float | None
    hits: np.ndarray | None
    count: int | None
    images: int
    scored: int
    scores: tuple[Score, ...] = ()


class Scorer:
    """Scores soups of `pool` with the evaluator's live model; its first `selecting` tasks count. What it learns lies in
    `directory`; individual scores are shared with `soupkit evaluate` through `cache`, under `keys` [ingredient][task].
    """

    def __init__(
        self,
        pool: Pool,
        evaluator: Evaluator,
        selecting: int,
        directory: Path,
        cache: ScoreCache,
        keys: Sequence[Sequence[str]],
        ranks: Ranks,
        progress: Progress,
    ) -> None:
        self.pool, self.evaluator, self.ranks, self.progress = pool, evaluator, ranks, progress
        self.tasks = evaluator.tasks[:selecting]
        self.running_sum = RunningSum(evaluator.model, pool.checkpoints)
        self._directory, self._cache, self._keys = directory, cache, keys
        self._rows = [p.rows for p in evaluator.pixels[:selecting]]
        self._labels = [p.labels[p.rows] for p in evaluator.pixels[:selecting]]
        sizes = [len(rows) for rows in self._rows]
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self.n = int(self._starts[-1])
        self.by_hits = all(is_sum_of_hits(task) for task in self.tasks)
        self.metric = hit_metric([t.metric for t in self.tasks], self._labels) if self.by_hits else None
        self._filled: Soup | None = None
        self._sides: dict[int, Tensor] = {}
        self._counted: dict[str, np.ndarray] = {}
        self.learned = 0  # images that went through a model in this run

    @property
    def step(self) -> int:
        """How many images are looked at before the rule is asked again."""
        return self.evaluator.stride * self.ranks.size

    def fill(self, soup: Soup) -> None:
        """Write `soup` into the live model, if it is not there, on every rank."""
        if self._filled != soup:
            self.ranks.together(lambda: self.running_sum.fill(soup))  # no rank waits for one that cannot read
            self._filled, self._sides = soup, {}

    def key(self, soup: Soup) -> str:
        """Return the name of a soup's weights: the ingredients' fingerprints in their order, and their shares."""
        prints = [self.pool.fingerprints[m].value for m in soup.members]
        named = prints if soup.shares is None else [prints, soup.shares]
        return xxhash.xxh3_128_hexdigest(json.dumps(named).encode())

    def individual(self, m: int) -> Measured:
        """Score ingredient `m` alone; the cache may know it."""
        if not self.by_hits:
            return self.whole(uniform([m]))
        known = self._open(uniform([m]))
        if not known.known.all():
            found = self.ranks.lead(lambda: self._from_cache(m))
            if found is not None:
                return found
        seen = self.examine(uniform([m]), None, known)
        if self.ranks.leads:
            for t, score in enumerate(seen.scores):
                self._cache.put(self._keys[m][t], score, self._outcome(known, t))
        return seen

    def _from_cache(self, m: int) -> Measured | None:
        found = [self._cache.get(self._keys[m][t], self.pool.refs[m], task) for t, task in enumerate(self.tasks)]
        parts = [f[1] for f in found if f is not None and f[1] is not None]
        if len(parts) < len(self.tasks) or sum(map(len, parts)) != self.n:
            return None
        assert self.metric is not None
        hits = np.concatenate(parts)
        scores = tuple(f[0] for f in found if f is not None)
        return Measured(self.metric.worth(hits), hits, int(hits.sum()), self.n, 0, scores)

    def examine(self, soup: Soup, rule: Rule | None, known: KnownHits | None = None) -> Measured:
        """Score `soup` until `rule` rejects it (None: every image); `known` is its file, if open."""
        assert self.metric is not None
        known = known or self._open(soup)
        counted = self._counted.setdefault(self.key(soup), np.zeros(self.n, dtype=bool))
        order = np.arange(self.n) if rule is None else rule.order
        count = scored = images = 0
        ended = False
        for start in range(0, self.n, self.step):
            part = order[start : start + self.step]
            self._learn(soup, known, part[~known.known[part]])
            hits = (known.flags[part] & RIGHT).astype(bool)
            scored += int((~counted[part]).sum())
            counted[part] = True
            count += int(hits.sum())
            images += len(part)
            self.progress.advance(len(part))
            if ended := rule is not None and rule.sees(part, hits):
                break
        # The journal is never to say more than what is on disk here.
        self.ranks.together(known.sync)
        if ended:
            return Measured(None, None, count, images, scored)
        hits = (known.flags & RIGHT).astype(bool)
        return Measured(self.metric.worth(hits), hits, count, images, scored, self._scores(soup, known))

    def _open(self, soup: Soup) -> KnownHits:
        """Open what is known of a soup: what the first rank's disk says counts on all of them."""
        path = self._directory / "hits" / self.key(soup)
        known = KnownHits(path, self.n, writes=self.ranks.leads)
        if self.ranks.size > 1:
            known.known, known.flags = self.ranks.lead(lambda: (known.known, known.flags))
        return known

    def _learn(self, soup: Soup, known: KnownHits, images: np.ndarray) -> None:
        """Score `images`, on every rank its share, and note what they are."""
        if not len(images):
            return
        self.fill(soup)
        self.learned += len(images)
        owner = np.searchsorted(self._starts, images, side="right") - 1
        for t in np.unique(owner).tolist():
            mine = images[owner == t]
            if t not in self._sides:
                self._sides[t] = self.evaluator.text_side(t)
            share = np.array_split(mine, self.ranks.size)[self.ranks.rank]
            rows = self._rows[t][share - self._starts[t]]
            hits = self.ranks.together(lambda t=t, rows=rows: self.evaluator.hits(t, rows, self._sides[t]))  # type: ignore[misc]
            flags = hits.top1.astype(np.uint8) * RIGHT
            if hits.top5 is not None:
                flags |= hits.top5.astype(np.uint8) * AMONG_FIVE
            flags = np.concatenate(self.ranks.gather(flags))
            self.ranks.together(lambda mine=mine, flags=flags: known.add(mine, flags))  # type: ignore[misc]

    def _outcome(self, known: KnownHits, t: int) -> Hits:
        here = slice(self._starts[t], self._starts[t + 1])
        flags = known.flags[here]
        five = (flags & AMONG_FIVE).astype(bool) if len(self.tasks[t].classnames) >= 5 else None
        return Hits((flags & RIGHT).astype(bool), five, self._labels[t])

    def _scores(self, soup: Soup, known: KnownHits) -> tuple[Score, ...]:
        ref, print_ = self._named(soup)
        return tuple(score_of(self._outcome(known, t), task, ref, print_) for t, task in enumerate(self.tasks))

    def _named(self, soup: Soup) -> tuple[str, str | None]:
        if len(soup.members) == 1:
            return self.pool.refs[soup.members[0]], self.pool.fingerprints[soup.members[0]].value
        return " + ".join(self.pool.refs[m] for m in soup.members), None

    def whole(self, soup: Soup) -> Measured:
        """Score `soup` by full passes: for scores that are no sums of hits."""
        path = self._directory / "scores" / f"{self.key(soup)}.json"
        scores = self.ranks.lead(lambda: _read_scores(path, len(self.tasks)))
        if scores is None:
            self.fill(soup)
            self.learned += self.n
            ref, print_ = self._named(soup)
            found = [
                self.evaluator.run(t, [self.evaluator.text_side(t)], None, self.progress)[0]
                for t in range(len(self.tasks))
            ]
            scores = tuple(score_of(o, task, ref, print_) for o, task in zip(found, self.tasks, strict=True))
            if self.ranks.leads:
                write_cached(path, json.dumps([asdict(score) for score in scores]))
        first = self.key(soup) not in self._counted
        self._counted[self.key(soup)] = np.ones(0, dtype=bool)
        mean = sum(score.value for score in scores) / len(scores)
        return Measured(mean, None, None, self.n, self.n if first else 0, scores)

    def value(self, seen: Measured) -> float | None:
        """Return the score as a fraction, None where the trial ended early."""
        if seen.worth is None or self.metric is None:
            return seen.worth
        return seen.worth / self.metric.scale

    def combined(self, seen: Measured) -> Score:
        """Return one Score of all selecting tasks together: the task's own, or the mean with its tasks as metrics."""
        if len(seen.scores) == 1:
            return seen.scores[0]
        value = self.value(seen)
        assert value is not None
        spread = sqrt(sum(((s.high - s.low) / 2) ** 2 for s in seen.scores)) / len(seen.scores)
        names = [f"{s.task}:{s.split}" for s in seen.scores]
        splits = {s.split for s in seen.scores}
        return Score(
            seen.scores[0].ref,
            seen.scores[0].fingerprint,
            f"mean of {', '.join(names)}",
            splits.pop() if len(splits) == 1 else "several",
            "mean",
            value,
            sum(s.n for s in seen.scores),
            max(0.0, value - spread),
            min(1.0, value + spread),
            {name: s.value for name, s in zip(names, seen.scores, strict=True)},
        )


def _read_scores(path: Path, n: int) -> tuple[Score, ...] | None:
    try:
        scores = tuple(Score(**entry) for entry in json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return scores if len(scores) == n else None
