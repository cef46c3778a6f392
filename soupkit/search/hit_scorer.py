"""Scores that are sums of hits: image by image, each image of a soup once, so that a trial can end early."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from soupkit.evaluation.outcomes import Hits, score_of
from soupkit.evaluation.score_cache import ScoreCache
from soupkit.evaluation.task import Score
from soupkit.search.candidate import Soup, uniform
from soupkit.search.document import SearchScore
from soupkit.search.hit_score import HitMetric, hit_metric
from soupkit.search.hits_file import AMONG_FIVE, RIGHT, HitsFile, flags_of, levels_of
from soupkit.search.live_soups import LiveSoups
from soupkit.search.logit_proxy import Part, draw_part, keep_logits, read_logits
from soupkit.search.measured import Measured, Unit, shown
from soupkit.search.names import HITS, LOGITS
from soupkit.search.stopping import Rule


class HitScorer:
    """Scores soups on the selecting tasks of `live`. What it learns lies in `directory`, a file of hits per soup;
    ingredients' scores are shared with `soupkit evaluate` through `cache`, under `keys` [ingredient][task]."""

    counts, stops = "images", True
    minimizes = False
    unit: Unit = "fraction"

    def __init__(self, live: LiveSoups, directory: Path, cache: ScoreCache, keys: Sequence[Sequence[str]]) -> None:
        self._live, self._directory, self._cache, self._keys = live, directory, cache, keys
        pixels = live.evaluator.pixels[: len(live.selecting)]
        self._rows = [p.rows for p in pixels]
        self._labels = [p.labels[p.rows] for p in pixels]
        self._starts = np.concatenate([[0], np.cumsum([len(rows) for rows in self._rows])])
        self.n = int(self._starts[-1])
        self.metric: HitMetric = hit_metric([t.metric for t in live.selecting], self._labels)
        self.scored = 0
        self._counted: dict[str, np.ndarray] = {}  # by soup: which images this search has seen of it, bool [n]

    def individual(self, m: int) -> Measured:
        """Score ingredient `m` alone; the cache may know it."""
        soup, ranks = uniform([m]), self._live.ranks
        file = self._open(soup)
        if not file.known.all():
            cached = ranks.lead(self._from_cache, m)
            if cached is not None:
                return cached
        measured = self._examine(soup, None, file)
        if ranks.leads:
            for t, score in enumerate(self._task_scores(soup, file)):
                classes = len(self._live.selecting[t].classnames)
                self._cache.put(self._keys[m][t], score, self._outcome(file, t), classes)
        return measured

    def _from_cache(self, m: int) -> Measured | None:
        ref, tasks = self._live.ingredients.refs[m], self._live.selecting
        entries = [self._cache.get(self._keys[m][t], ref, task) for t, task in enumerate(tasks)]
        parts = [entry[1] for entry in entries if entry is not None and entry[1] is not None]
        if len(parts) < len(tasks) or sum(map(len, parts)) != self.n:
            return None
        scores = tuple(shown(entry[0]) for entry in entries if entry is not None)
        return self._whole(np.concatenate(parts), 0, scores)

    def examine(self, soup: Soup, rule: Rule | None) -> Measured:
        """Score `soup` until `rule` rejects it (None: every image)."""
        return self._examine(soup, rule, self._open(soup))

    def _examine(self, soup: Soup, rule: Rule | None, file: HitsFile) -> Measured:
        counted = self._counted.setdefault(self._live.key(soup), np.zeros(self.n, dtype=bool))
        order = np.arange(self.n) if rule is None else rule.order
        step = self._live.evaluator.stride * self._live.ranks.size
        count = scored = images = 0
        rejected = False
        for start in range(0, self.n, step):
            part = order[start : start + step]
            self._score(soup, file, part[~file.known[part]])
            hits = (file.flags[part] & RIGHT).astype(bool)
            scored += int((~counted[part]).sum())
            counted[part] = True
            count += int(hits.sum())
            images += len(part)
            self._live.progress.advance(len(part))
            if rejected := rule is not None and rule.sees(part, hits):
                break
        # The journal is never to say more than what is on disk here.
        self._live.ranks.together(file.sync)
        if rejected:
            return Measured(None, None, None, count, images, scored)
        measured = self._whole(
            (file.flags & RIGHT).astype(bool), scored, tuple(map(shown, self._task_scores(soup, file)))
        )
        return replace(measured, margins=levels_of(file.flags))

    def _whole(self, hits: np.ndarray, scored: int, scores: tuple[SearchScore, ...]) -> Measured:
        worth = self.metric.worth(hits)
        return Measured(worth, worth / self.metric.scale, hits, int(hits.sum()), self.n, scored, scores)

    def _open(self, soup: Soup) -> HitsFile:
        """Open what is known of a soup: what the first rank's disk says counts on all of them."""
        ranks = self._live.ranks
        file = HitsFile(self._directory / HITS / self._live.key(soup), self.n, writes=ranks.leads)
        if ranks.size > 1:
            file.known, file.flags = ranks.gather((file.known, file.flags))[0]
        return file

    def _score(self, soup: Soup, file: HitsFile, images: np.ndarray) -> None:
        """Score `images` (int64 [b]), on every rank its share, and note what they are."""
        if not len(images):
            return
        live, ranks = self._live, self._live.ranks
        live.fill(soup)
        self.scored += len(images)
        task_of_image = np.searchsorted(self._starts, images, side="right") - 1
        for t in np.unique(task_of_image).tolist():
            of_task = images[task_of_image == t]
            share = np.array_split(of_task, ranks.size)[ranks.rank]
            rows = self._rows[t][share - self._starts[t]]
            hits = ranks.together(live.evaluator.hits, t, rows, live.text_side(t))
            ranks.together(file.add, of_task, np.concatenate(ranks.gather(_flags(hits))))

    def part(self, share: float, least: int, seed: int) -> Part:
        """Draw the part of the images, `share` of them and at least `least` of each task, that is to stand for all."""
        drawn = draw_part([len(rows) for rows in self._rows], share, least, seed)
        labels = tuple(of_task[some] for of_task, some in zip(self._labels, drawn, strict=True))
        rows = np.concatenate([some + start for some, start in zip(drawn, self._starts, strict=False)])
        return Part(rows, labels, hit_metric([t.metric for t in self._live.selecting], labels))

    def in_part(self, m: int, part: Part) -> tuple[Measured, list[np.ndarray]]:
        """Score ingredient `m` on a part of the images alone; returns its logits on each task, float32 [b, classes]."""
        soup, live, ranks = uniform([m]), self._live, self._live.ranks
        file, tasks = self._open(soup), range(len(self._rows))
        rows = [part.rows[(part.rows >= self._starts[t]) & (part.rows < self._starts[t + 1])] for t in tasks]
        path = self._directory / LOGITS / f"{live.key(soup)}.npz"
        shapes = [(len(rows[t]), len(live.selecting[t].classnames)) for t in tasks]
        logits = ranks.lead(read_logits, path, shapes)
        if logits is None:
            live.fill(soup)
            logits = [self._logits(file, t, rows[t]) for t in tasks]
            ranks.together(file.sync)
            ranks.lead(keep_logits, path, logits)
            self.scored += len(part.rows)
        live.progress.advance(len(part.rows))
        counted = self._counted.setdefault(live.key(soup), np.zeros(self.n, dtype=bool))
        scored = int((~counted[part.rows]).sum())
        counted[part.rows] = True
        hits = (file.flags[part.rows] & RIGHT).astype(bool)
        worth, named = part.metric.worth(hits), live.named(soup)
        outcomes = [self._outcome(file, t, rows[t]) for t in tasks]
        scores = [shown(score_of(o, task, *named)) for o, task in zip(outcomes, live.selecting, strict=True)]
        value = worth / part.metric.scale
        return Measured(worth, value, None, int(hits.sum()), len(hits), scored, tuple(scores)), logits

    def _logits(self, file: HitsFile, t: int, images: np.ndarray) -> np.ndarray:
        """Score `images` of task number `t`, note their hits, and return their logits, float32 [b, classes]."""
        live, ranks = self._live, self._live.ranks
        share = np.array_split(images, ranks.size)[ranks.rank]
        rows = self._rows[t][share - self._starts[t]]
        hits = ranks.together(live.evaluator.hits, t, rows, live.text_side(t), keep_logits=True)
        parts = ranks.gather((_flags(hits), hits.logits))
        ranks.together(file.add, images, np.concatenate([flags for flags, _ in parts]))
        return np.concatenate([logits for _, logits in parts])

    def _outcome(self, file: HitsFile, t: int, images: np.ndarray | None = None) -> Hits:
        """Return what is known of task number `t`: of all of its images, or of some."""
        images = np.arange(self._starts[t], self._starts[t + 1]) if images is None else images
        flags = file.flags[images]
        has_five = len(self._live.selecting[t].classnames) >= 5
        five = (flags & AMONG_FIVE).astype(bool) if has_five else None
        return Hits((flags & RIGHT).astype(bool), five, self._labels[t][images - self._starts[t]])

    def _task_scores(self, soup: Soup, file: HitsFile) -> tuple[Score, ...]:
        named = self._live.named(soup)
        return tuple(score_of(self._outcome(file, t), task, *named) for t, task in enumerate(self._live.selecting))


def _flags(hits: Hits) -> np.ndarray:
    """Return the hits as a file of them has them, uint8 [b]."""
    return flags_of(hits.top1, hits.top5, hits.margins)
