"""Scores candidates by linear probes on their image features: each image tower goes once over the training and the test
images of every task."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from soupkit.device import choose_device
from soupkit.errors import ArchitectureError, DataError
from soupkit.evaluation.candidates import Candidate, by_architecture, by_image_tower
from soupkit.evaluation.content_digest import content_of
from soupkit.evaluation.evaluator import Evaluator
from soupkit.evaluation.heads import is_head
from soupkit.evaluation.options import EvaluationOptions
from soupkit.evaluation.outcomes import Hits, score_of
from soupkit.evaluation.probe import Probe, fit_probe, training_rows
from soupkit.evaluation.score_cache import ScoreCache, ScoreSettings, score_key
from soupkit.evaluation.score_group import Cell, Results, images_of
from soupkit.evaluation.task import Task
from soupkit.progress import Progress
from soupkit.ranks import Ranks
from soupkit.text import counted

_VERSION = 1  # of how a probe is fitted; raised when that changes


@dataclass(frozen=True, slots=True)
class ProbedTask:
    """A task with the split that its probes are fitted to; `task` has the name that their scores have."""

    task: Task
    train: Task


@dataclass(frozen=True, slots=True)
class Probing:
    """What probes are fitted and scored with."""

    tasks: tuple[ProbedTask, ...]
    probe: Probe
    options: EvaluationOptions
    ranks: Ranks
    progress: Progress

    def check(self, candidates: Sequence[Candidate]) -> None:
        """Raise ArchitectureError for a candidate that has no features, DataError for a task that is no
        classification."""
        for candidate in candidates:
            if is_head(candidate.config):
                raise ArchitectureError("has a head, and a probe is of features", candidate.ref, "leave it out")
        for probed in self.tasks:
            if probed.task.kind != "classification":
                raise DataError(f"is a task of {probed.task.kind}", probed.task.name, "name tasks of classification")

    def score(self, candidates: Sequence[Candidate]) -> tuple[Results, list[str]]:
        """Return the scores of all candidates' probes, and what a person should know about them."""
        results, notes, cache = Results(), [], ScoreCache.of(self.options)
        settings = ScoreSettings.of(self.options, choose_device(self.options.device, self.ranks.local))
        contents = [
            tuple(
                self.ranks.together(content_of, task, self.options, self.progress)
                for task in (probed.train, probed.task)
            )
            for probed in self.tasks
        ]
        keys = self._keys(candidates, contents, settings)
        results.images = {t: cache.images(test, settings) for t, (_, test) in enumerate(contents)}
        for (c, t), key in keys.items():
            cached = self.ranks.lead(cache.get, key, candidates[c].ref, self.tasks[t].task)
            if cached is not None and cached.hits is not None:
                results.scores[c, t], results.hits[c, t] = cached.score, cached.hits
        missing = frozenset(keys) - frozenset(results.scores)
        for members in by_architecture(candidates, sorted({c for c, _ in missing})):
            group = {c: candidates[c] for c in members}
            fitted = self._fitted(group, missing, results)
            for t in {t for _, t in fitted} if self.ranks.leads else ():  # before any score that counts them
                cache.put_images(contents[t][1], settings, results.images[t])
            for (c, t), (hits, said) in fitted.items():
                candidate, task = candidates[c], self.tasks[t].task
                results.scores[c, t] = score_of(hits, task, candidate.ref, candidate.fingerprint.value)
                results.hits[c, t] = hits.top1
                notes.append(f"{candidate.ref}, {task.name}: {said}")
                if self.ranks.leads:
                    cache.put(keys[c, t], results.scores[c, t], hits, len(task.classnames))
        return results, notes

    def _keys(
        self, candidates: Sequence[Candidate], contents: Sequence[tuple[str, ...]], settings: ScoreSettings
    ) -> dict[Cell, str]:
        keys: dict[Cell, str] = {}
        for t, (probed, both) in enumerate(zip(self.tasks, contents, strict=True)):
            content = json.dumps(["probe", _VERSION, self.probe.shots, self.probe.seed, *both])
            for c, candidate in enumerate(candidates):
                image = candidate.fingerprint.image
                keys[c, t] = score_key(image, content, probed.task, candidate.config, (), settings)
        return keys

    def _fitted(
        self, group: dict[int, Candidate], missing: frozenset[Cell], results: Results
    ) -> dict[Cell, tuple[Hits, str]]:
        """Return the hits of the probes of one architecture's candidates, and how each was fitted."""
        began = time.perf_counter()
        wanted = sorted({t for c, t in missing if c in group})
        first, towers = next(iter(group.values())), by_image_tower(group, list(group))
        pairs = [self.tasks[t] for t in wanted]
        fitted: dict[Cell, tuple[Hits, str]] = {}
        with Evaluator(
            first.config, [*(p.train for p in pairs), *(p.task for p in pairs)], self.options,
            tokenizer_files=first.checkpoint.tokenizer_files, where=first.ref, progress=self.progress, ranks=self.ranks,
        ) as evaluator:  # fmt: skip
            began = results.spent("open", began)
            images = sum(len(pixels.rows) for pixels in evaluator.pixels)
            self.progress.start(f"probes on {counted(len(wanted), 'task')}", images * len(towers), "images")
            for tower in towers:
                evaluator.load(group[tower[0]].checkpoint)
                for i, t in enumerate(wanted):
                    hits = self._probe(evaluator, i, len(wanted) + i)
                    fitted |= {(c, t): hits for c in tower if (c, t) in missing}
                began = results.spent("images", began)
            self.progress.finish()
            for i, t in enumerate(wanted):
                results.images[t] = images_of(evaluator.pixels[len(wanted) + i])
        return fitted

    def _probe(self, evaluator: Evaluator, train: int, test: int) -> tuple[Hits, str]:
        """Fit a probe to the features of task number `train`, and return its hits on those of task number `test`.

        A training image that is also scored, byte for byte, is left out.
        """
        seen, scored = evaluator.pixels[train], evaluator.pixels[test]
        of_test = {scored.hashes[row] for row in scored.rows}
        kept = np.array([seen.hashes[row] not in of_test for row in seen.rows], bool)
        rows = seen.rows[kept]
        chosen = training_rows(seen.labels[rows], self.probe, f"{evaluator.tasks[train].name}:train")
        features = evaluator.features(train, rows[chosen], self.progress).numpy()
        of_scored = evaluator.features(test, scored.rows, self.progress).numpy()
        labels = seen.labels[rows][chosen]
        classes = len(evaluator.tasks[test].classnames)
        hits, c = fit_probe(features, labels, of_scored, scored.labels[scored.rows], classes, self.probe)
        said = f"C = {c:.3g}, fitted to {len(chosen):,} images"
        return hits, said + (f"; {int((~kept).sum()):,} that are scored too were left out" if not kept.all() else "")
