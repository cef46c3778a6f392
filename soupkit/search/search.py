"""`greedy_search`: from ingredients and tasks to the best soup that the strategy finds, as a soup directory."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from soupkit.checkpoint.fingerprint import fingerprint
from soupkit.checkpoint.partial import PartialDirectory
from soupkit.checkpoint.reference import open_checkpoint
from soupkit.errors import SoupkitError, StorageError, UsageError
from soupkit.evaluation.data import Task
from soupkit.evaluation.evaluator import EvaluationOptions, Evaluator, content_of, default_cache
from soupkit.evaluation.score_cache import ScoreCache, score_key
from soupkit.evaluation.tasks import open_tasks
from soupkit.merging.run_merge import RunOptions, merge
from soupkit.merging.soup import read_soup_json
from soupkit.progress import SILENT, Progress
from soupkit.ranks import Ranks, joined_ranks
from soupkit.search.findings import describe, reports
from soupkit.search.journal import Journal
from soupkit.search.options import SearchOptions
from soupkit.search.pool import Pool, open_pool
from soupkit.search.scoring import Scorer
from soupkit.search.strategies import STRATEGIES, Standing, random_orders
from soupkit.search.trials import SearchTrials

DOCUMENT = "search.json"


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What came of a search. `status` is "written", "unchanged" (it was there already) or "planned" (a dry run);
    `document` is what `search.json` holds, of a dry run only what is known before it."""

    status: str
    output: Path
    document: dict[str, Any]
    seconds: float
    notes: tuple[str, ...] = ()


def greedy_search(
    refs: Sequence[str | Path],
    output: str | Path,
    *,
    tasks: Sequence[str],
    report_tasks: Sequence[str] = (),
    search: SearchOptions | None = None,
    evaluation: EvaluationOptions | None = None,
    data_root: Path | None = None,
    model: str | None = None,
    preprocess: Path | None = None,
    dry_run: bool = False,
    fresh: bool = False,
    picture: Callable[[dict[str, Any], Path], None] | None = None,
    progress: Progress = SILENT,
) -> SearchResult:
    """Search for the soup of `refs` that scores best on `tasks` (the mean over them), and write it to `output`.

    The tasks select on split `val` unless a split is named; `report_tasks` (split `test` unless named) only report.
    `picture` draws the document to a path. Interrupted at any moment, the same call goes on, and scores no image again
    for the same weights.

    Raises UsageError for a call that cannot work; what `merge` raises for ingredients that cannot be averaged, before
    any scoring; DataError for data that are missing or damaged; StorageError for an output or a journal in the way.
    """
    started = time.perf_counter()
    options = search or SearchOptions()
    options.check()
    evaluation = evaluation or EvaluationOptions(cache=default_cache())
    if not tasks:
        raise UsageError("names no task to select on", "--task", "for example --task digits")
    target = Path(output)
    with ExitStack() as stack:
        ranks = stack.enter_context(joined_ranks())
        if evaluation.cache is None:
            place = stack.enter_context(TemporaryDirectory(prefix="soupkit-"))
            evaluation = replace(evaluation, cache=Path(place), scores=False)
        pool = ranks.together(
            lambda: open_pool(
                [str(r) for r in refs], target, stack,
                model=model, preprocess=preprocess, keep_going=options.keep_going,
                memory=evaluation.cache / "weights" if evaluation.cache else None, progress=progress,
            )
        )  # fmt: skip
        selecting = open_tasks(tasks, data_root=data_root, split="val")
        reporting = open_tasks(report_tasks, data_root=data_root)
        notes = [*pool.notes, *(note for task in (*selecting, *reporting) for note in task.notes)]
        contents = [ranks.together(lambda t=t: content_of(t, evaluation, progress)) for t in (*selecting, *reporting)]  # type: ignore[misc]
        job = _Job(
            pool, selecting, reporting, contents, options, evaluation, ranks, progress, target, model, preprocess
        )
        for note in notes if ranks.leads else ():
            progress.note(note)
        if dry_run:
            return SearchResult("planned", target, _planned(job), time.perf_counter() - started, tuple(notes))
        there = ranks.lead(lambda: _existing(target, job.subject(), fresh=fresh))
        if there is not None:
            if ranks.leads:
                progress.note(f"{target} is there already, found among the same ingredients by the same search")
            return SearchResult("unchanged", target, there, time.perf_counter() - started, tuple(notes))
        try:
            document, more = _run(job, stack, fresh=fresh, picture=picture, started=started)
        except torch.OutOfMemoryError as error:
            raise SoupkitError(
                "the device has no room left, even for one image",
                evaluation.device,
                "use another --device or --precision",
            ) from error
        return SearchResult("written", target, document, time.perf_counter() - started, (*notes, *more))


@dataclass(frozen=True, slots=True)
class _Job:
    """All that a search is about."""

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
            "options": asdict(self.options),
            "evaluation": evaluation,
            "ranks": self.ranks.size,
        }
        return json.loads(json.dumps(subject))


def _planned(job: _Job) -> dict[str, Any]:
    images = sum(len(t.dataset) for t in job.selecting)
    return {
        "strategy": job.options.strategy,
        "stopping": job.options.stopping,
        "ingredients": list(job.pool.refs),
        "tasks": [f"{t.name}:{t.split}" for t in job.selecting],
        "report_tasks": [f"{t.name}:{t.split}" for t in job.reporting],
        "images": images,
    }


def _existing(target: Path, subject: dict[str, Any], *, fresh: bool) -> dict[str, Any] | None:
    """Return the document of a finished search for the same; None where the way is free. Raises StorageError."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return None
    soup = read_soup_json(target)
    if soup is None:
        raise StorageError("is there already and is not a soup", target, "choose another -o, or move it away yourself")
    if fresh:
        return None
    try:
        document = json.loads((target / DOCUMENT).read_text("utf-8"))
    except (OSError, ValueError):
        document = {}
    if document.get("settings") != subject:
        raise StorageError("holds another soup", target, "choose another -o, or replace it with --fresh")
    with open_checkpoint(target) as written:
        if fingerprint(written).value != soup.get("output", {}).get("fingerprint"):
            raise StorageError(
                "holds this soup, but not the weights that were written", target, "make it anew with --fresh"
            )
    return document


def _run(
    job: _Job,
    stack: ExitStack,
    *,
    fresh: bool,
    picture: Callable[[dict[str, Any], Path], None] | None,
    started: float,
) -> tuple[dict[str, Any], list[str]]:
    """Search, write the soup, check it and describe what was found."""
    ranks, progress, partial = job.ranks, job.progress, PartialDirectory(job.target)

    def take() -> None:
        stack.enter_context(partial)
        if fresh:
            partial.clear()

    ranks.lead(take)
    path = partial.path / "journal.jsonl"
    journal = ranks.together(lambda: Journal(path, job.subject(), writes=ranks.leads))
    if journal.done and ranks.leads:
        progress.note(f"resuming: {journal.done} lines of the journal were written before")
    evaluator = stack.enter_context(
        Evaluator(
            job.pool.config, job.tasks, job.evaluation, tokenizer_files=job.pool.tokenizer_files,
            where=job.pool.refs[0], progress=progress, ranks=ranks,
        )
    )  # fmt: skip
    scorer = _scorer(job, evaluator, partial.path)
    trials = SearchTrials(scorer, journal, job.options)
    try:
        order = trials.score_ingredients()
        found = _search(trials, order)
    except KeyboardInterrupt:
        if ranks.leads and trials.best is not None:
            names = " ".join(job.pool.refs[m] for m in trials.best.members)
            progress.note(f"the best soup so far is that of: {names}")
        raise
    soup = partial.path / "soup"
    written = merge(
        [job.pool.refs[m] for m in found.members], soup,
        model=job.model, preprocess=job.preprocess, allow_single=True,
        options=RunOptions(device=job.evaluation.device), progress=progress,
    )  # fmt: skip
    scorer.fill(found.members)
    with open_checkpoint(soup) as file:
        if odd := scorer.core.differences(file):
            raise SoupkitError("the soup on disk is not the one that was scored", f"{soup}, tensor {odd[0]!r}")
    document, notes = describe(trials, order, found, job.target, written.fingerprint)
    document["report"] = reports(trials, order, found, job.target, written.fingerprint, partial.path)
    document["settings"] = job.subject()
    document["seconds"] = time.perf_counter() - started
    for note in notes if ranks.leads else ():
        progress.note(note)
    ranks.lead(lambda: _publish(partial, soup, job.target, document, picture, fresh=fresh))
    return document, notes


def _scorer(job: _Job, evaluator: Evaluator, directory: Path) -> Scorer:
    evaluation = job.evaluation
    settings = [evaluator.device.type, str(evaluator.dtype), evaluation.limit, evaluation.skip_corrupt]
    # A file of weights means the same to `soupkit evaluate`: its tokenizer's files count by what lies beside it.
    keys = [
        [
            score_key(p.value, content, task, job.pool.config, checkpoint.tokenizer_files, settings)
            for task, content in zip(job.selecting, job.contents, strict=False)
        ]
        for p, checkpoint in zip(job.pool.fingerprints, job.pool.checkpoints, strict=True)
    ]
    cache = ScoreCache(evaluation.cache / "scores" if evaluation.cache is not None and evaluation.scores else None)
    return Scorer(job.pool, evaluator, len(job.selecting), directory, cache, keys, job.ranks, job.progress)


def _search(trials: SearchTrials, order: list[int]) -> Standing:
    options = trials.options
    if options.orders > 1:
        return random_orders(trials, order, options.orders, options.seed)
    return STRATEGIES[options.strategy](trials, order)


def _publish(
    partial: PartialDirectory,
    soup: Path,
    target: Path,
    document: dict[str, Any],
    picture: Callable[[dict[str, Any], Path], None] | None,
    *,
    fresh: bool,
) -> None:
    """Put the document and the picture beside the soup, and all of it in place by one rename."""
    old = target.with_name(target.name + ".old.partial")
    try:
        (soup / DOCUMENT).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")
        if picture is not None:
            picture(document, soup / "search.png")
        if fresh and target.exists():
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
        soup.rename(target)
    except OSError as error:
        raise StorageError(f"cannot be put in place: {error.strerror}", target) from error
    shutil.rmtree(old, ignore_errors=True)
    partial.discard()
