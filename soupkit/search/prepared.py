"""What a search is about: everything that decides its outcome, before anything is scored."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soupkit.checkpoint.fingerprint import fingerprint
from soupkit.checkpoint.partial import sweep
from soupkit.checkpoint.reference import open_checkpoint
from soupkit.errors import DataError, StorageError, UsageError
from soupkit.evaluation.heads import HeadOptions
from soupkit.evaluation.metrics import METRICS
from soupkit.evaluation.options import EvaluationOptions
from soupkit.evaluation.task import Task
from soupkit.merging.soup_directory import SoupDocument
from soupkit.progress import Progress
from soupkit.ranks import Ranks
from soupkit.search.candidate import SearchInputs
from soupkit.search.custom_score import CustomScore
from soupkit.search.custom_scorer import NAME
from soupkit.search.document import SearchDocument, read_search
from soupkit.search.hit_score import is_sum_of_hits
from soupkit.search.ingredients import Ingredients
from soupkit.search.options import SearchOptions
from soupkit.search.subject import different_parts


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """What a dry run says: the names of what is searched, the images of one trial, the score of the user's own, and the
    most trials, None where nothing bounds them; `mixtures` of them have weights of their own."""

    strategy: str
    stopping: str
    ingredients: tuple[str, ...]
    tasks: tuple[str, ...]
    report_tasks: tuple[str, ...]
    images: int
    score: str | None
    most_trials: int | None
    mixtures: int


@dataclass(frozen=True, slots=True)
class PreparedSearch:
    """The ingredients, the tasks with the digests of their contents (the selecting ones first), and how to search."""

    ingredients: Ingredients
    selecting: list[Task]
    reporting: list[Task]
    contents: list[str]
    options: SearchOptions
    evaluation: EvaluationOptions
    ranks: Ranks
    progress: Progress
    target: Path
    head: HeadOptions
    score: CustomScore | None = None

    @property
    def tasks(self) -> list[Task]:
        """Every task, the selecting ones first."""
        return [*self.selecting, *self.reporting]

    @property
    def inputs(self) -> SearchInputs:
        """What a strategy is told of the inputs."""
        tasks = [f"{t.name}:{t.split}" for t in self.selecting] + ([NAME] if self.score is not None else [])
        tensors = tuple(self.ingredients.checkpoints[0].tensors)
        return SearchInputs(self.ingredients.refs, tuple(tasks), tensors, self.ingredients.base_ref)

    def check_options(self) -> None:
        """Raise UsageError for options that these inputs cannot be searched with."""
        own = self.options.settled
        if own.get("proxy") and not self._sums_hits:
            raise UsageError(
                "needs a score that is a sum of hits", "--proxy", "select on tasks of classification, without --score"
            )
        if self.options.row.needs_gradient:
            self._check_gradient()
        if (name := self.options.metric) is not None and not self.selecting:
            raise UsageError("belongs to tasks, and none is named", f"--metric {name}", "name one with --task")
        if self.minimized is not None and self.score is not None:
            raise UsageError("is no term of a sum with --score", f"--metric {name}", "select by one of the two")
        self.options.row.check_inputs(self.inputs, own)

    def _check_gradient(self) -> None:
        where = f"--strategy {self.options.strategy}"
        if self.score is not None or not self.selecting:
            hint = "name a task of classification with --task, without --score"
            raise UsageError("needs a loss that can be differentiated", where, hint)
        for task in self.selecting:
            if task.kind != "classification":
                what = f"learns from classifications, and {task.name} is a task of {task.kind}"
                raise UsageError(what, where, "name tasks of classification")

    @property
    def minimized(self) -> str | None:
        """The metric that selects, where a low value of it is good; None where the tasks' main ones select."""
        name = self.options.metric
        return name if name is not None and METRICS[name].minimized else None

    @property
    def _sums_hits(self) -> bool:
        """Whether the score that selects is a sum of hits."""
        return self.score is None and self.minimized is None and all(map(is_sum_of_hits, self.selecting))

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
            "ingredients": [f.value for f in self.ingredients.fingerprints],
            "tasks": described[: len(self.selecting)],
            "report tasks": described[len(self.selecting) :],
            "options": self.options.deciding(),
            "evaluation": evaluation,
            "ranks": self.ranks.size,
        }
        if self.ingredients.base_fingerprint is not None:
            subject["base"] = self.ingredients.base_fingerprint.value
        if self.score is not None:
            subject["score"] = self.score.described(self.options.seed)
        return json.loads(json.dumps(subject))

    def planned(self) -> SearchPlan:
        """Return what a dry run says."""
        limit, options = self.evaluation.limit, self.options
        most = options.row.most_trials(len(self.ingredients), **options.settled)
        return SearchPlan(
            options.strategy,
            options.stopping,
            self.ingredients.refs,
            self.inputs.tasks,
            tuple(f"{t.name}:{t.split}" for t in self.reporting),
            sum(len(t.dataset) if limit is None else min(limit, len(t.dataset)) for t in self.selecting),
            self.score.name if self.score is not None else None,
            most.trials if most is not None else None,
            most.mixtures if most is not None else 0,
        )

    def existing(self, *, fresh: bool) -> SearchDocument | None:
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
            document = read_search(target)
        except DataError:
            document = None
        if document is None or different_parts(document.settings, self.subject()):
            raise StorageError("holds another soup", target, "choose another -o, or replace it with --fresh")
        with open_checkpoint(target) as written:
            if fingerprint(written).value != soup.output.fingerprint:
                raise StorageError(
                    "holds this soup, but not the weights that were written", target, "make it anew with --fresh"
                )
        return document
