"""What a search is about: everything that decides its outcome, before anything is scored."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soupkit.checkpoint.fingerprint import fingerprint
from soupkit.checkpoint.partial import sweep
from soupkit.checkpoint.reference import open_checkpoint
from soupkit.errors import StorageError
from soupkit.evaluation.evaluator import Evaluator
from soupkit.evaluation.options import EvaluationOptions
from soupkit.evaluation.score_cache import ScoreCache, ScoreSettings, score_key
from soupkit.evaluation.task import Task
from soupkit.merging.soup_directory import SoupDocument
from soupkit.progress import Progress
from soupkit.ranks import Ranks
from soupkit.search.ingredients import Pool
from soupkit.search.options import SearchOptions
from soupkit.search.scoring import Scorer

DOCUMENT = "search.json"


@dataclass(frozen=True, slots=True)
class Job:
    """The ingredients, the tasks with the digests of their contents (the selecting ones first), and how to search."""

    pool: Pool
    selecting: list[Task]
    reporting: list[Task]
    contents: list[str]
    options: SearchOptions
    evaluation: EvaluationOptions
    ranks: Ranks
    progress: Progress
    target: Path
    model: str | None
    preprocess: Path | None

    @property
    def tasks(self) -> list[Task]:
        """Every task, the selecting ones first."""
        return [*self.selecting, *self.reporting]

    def subject(self) -> dict[str, Any]:
        """Return what decides the outcome, so that a journal of another search is recognised."""
        described = [
            [t.name, t.split, t.metric, content, t.classnames, t.templates]
            for t, content in zip(self.tasks, self.contents, strict=True)
        ]
        evaluation = {
            k: getattr(self.evaluation, k) for k in ("device", "precision", "batch_size", "limit", "skip_corrupt")
        }
        subject = {
            "ingredients": [p.value for p in self.pool.fingerprints],
            "tasks": described[: len(self.selecting)],
            "report tasks": described[len(self.selecting) :],
            "options": self.options.deciding(),
            "evaluation": evaluation,
            "ranks": self.ranks.size,
        }
        return json.loads(json.dumps(subject))

    def planned(self) -> dict[str, Any]:
        """Return what a dry run says."""
        limit = self.evaluation.limit
        return {
            "strategy": self.options.strategy,
            "stopping": self.options.stopping,
            "ingredients": list(self.pool.refs),
            "tasks": [f"{t.name}:{t.split}" for t in self.selecting],
            "report_tasks": [f"{t.name}:{t.split}" for t in self.reporting],
            "images": sum(len(t.dataset) if limit is None else min(limit, len(t.dataset)) for t in self.selecting),
            "budget": self.options.deciding().get("budget"),
        }

    def existing(self, *, fresh: bool) -> dict[str, Any] | None:
        """Return the document of a finished search for the same; None where the way is free. Raises StorageError."""
        target = self.target
        if not target.exists() or (target.is_dir() and not any(target.iterdir())):
            return None
        soup = SoupDocument.read(target)
        if soup is None:
            raise StorageError(
                "is there already and is not a soup", target, "choose another -o, or move it away yourself"
            )
        sweep(target)
        if fresh:
            return None
        try:
            document = json.loads((target / DOCUMENT).read_text("utf-8"))
        except (OSError, ValueError):
            document = {}
        if document.get("settings") != self.subject():
            raise StorageError("holds another soup", target, "choose another -o, or replace it with --fresh")
        with open_checkpoint(target) as written:
            if fingerprint(written).value != soup.output.fingerprint:
                raise StorageError(
                    "holds this soup, but not the weights that were written", target, "make it anew with --fresh"
                )
        return document

    def scorer(self, evaluator: Evaluator, directory: Path) -> Scorer:
        """Return what scores soups; it keeps what it learns in `directory`."""
        settings = ScoreSettings.of(self.evaluation, evaluator.device)
        # A file of weights means the same to `soupkit evaluate`: its tokenizer's files count by what lies beside it.
        keys = [
            [
                score_key(p.value, content, task, self.pool.config, checkpoint.tokenizer_files, settings)
                for task, content in zip(self.selecting, self.contents, strict=False)
            ]
            for p, checkpoint in zip(self.pool.fingerprints, self.pool.checkpoints, strict=True)
        ]
        cache = ScoreCache.of(self.evaluation)
        return Scorer(self.pool, evaluator, len(self.selecting), directory, cache, keys, self.ranks, self.progress)
