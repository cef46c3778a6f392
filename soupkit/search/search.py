"""`greedy_search`: from ingredients and tasks to the best soup that the strategy finds, as a soup directory."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from soupkit.checkpoint.partial import PartialDirectory
from soupkit.checkpoint.reference import open_checkpoint
from soupkit.errors import SoupkitError, UsageError
from soupkit.evaluation.content_digest import content_of
from soupkit.evaluation.evaluator import Evaluator
from soupkit.evaluation.options import EvaluationOptions, default_cache
from soupkit.evaluation.tasks import open_tasks
from soupkit.merging.run_merge import RunOptions, merge
from soupkit.progress import SILENT, Progress
from soupkit.ranks import joined_ranks
from soupkit.search.candidate import ScoredSoup
from soupkit.search.document import describe, reports
from soupkit.search.ingredients import open_pool
from soupkit.search.journal import Journal
from soupkit.search.offer import so_far
from soupkit.search.options import SearchOptions
from soupkit.search.output import JOURNAL, SOUP, Picture, check_place, is_a_search, publish, take_place
from soupkit.search.prepared import Job
from soupkit.search.scoring import Scorer
from soupkit.search.strategies.cma_es import all_blocks, mix
from soupkit.search.strategies.experts import choose_experts, correlations, group_tasks, mix_experts, most_groups
from soupkit.search.strategies.greedy import backward, greedy, random_orders, swap
from soupkit.search.strategies.shapley import known_subsets, shapley_shares
from soupkit.search.trials import SearchTrials, tasks_by_ingredients


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
    picture: Picture | None = None,
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
        selecting = ranks.together(lambda: open_tasks(tasks, data_root=data_root, split="val"))
        reporting = ranks.together(lambda: open_tasks(report_tasks, data_root=data_root))
        if options.strategy == "experts" and len(selecting) < 2:
            raise UsageError("experts of one task are one ingredient", "--task", "name several tasks to select on")
        notes = [*pool.notes, *(note for task in (*selecting, *reporting) for note in task.notes)]
        contents = [ranks.together(lambda t=t: content_of(t, evaluation, progress)) for t in (*selecting, *reporting)]  # type: ignore[misc]
        job = Job(pool, selecting, reporting, contents, options, evaluation, ranks, progress, target, model, preprocess)
        blocks = all_blocks(options.blocks, list(pool.checkpoints[0].tensors))
        for note in notes if ranks.leads else ():
            progress.note(note)
        there = ranks.lead(lambda: check_place(job, fresh=fresh))
        if there is not None:
            if ranks.leads:
                progress.note(f"{target} is there already, found among the same ingredients by the same search")
            return SearchResult("unchanged", target, there, time.perf_counter() - started, tuple(notes))
        if dry_run:
            return SearchResult("planned", target, job.planned(), time.perf_counter() - started, tuple(notes))
        try:
            document, more = _run(job, blocks, stack, fresh=fresh, picture=picture, started=started)
        except torch.OutOfMemoryError as error:
            raise SoupkitError(
                "the device has no room left beside the model and the sum of a soup",
                evaluation.device,
                "use another --device or --precision",
            ) from error
        return SearchResult("written", target, document, time.perf_counter() - started, (*notes, *more))


def _run(
    job: Job,
    blocks: tuple[str, ...],
    stack: ExitStack,
    *,
    fresh: bool,
    picture: Picture | None,
    started: float,
) -> tuple[dict[str, Any], list[str]]:
    """Search, write the soup, check it and describe what was found."""
    ranks, progress, partial = job.ranks, job.progress, PartialDirectory(job.target, "search", recognises=is_a_search)

    def take() -> None:
        stack.enter_context(partial)
        take_place(partial, fresh=fresh)

    ranks.lead(take)
    journal = ranks.together(lambda: Journal(partial.path / JOURNAL, job.subject(), writes=ranks.leads))
    evaluator = stack.enter_context(
        Evaluator(
            job.pool.config, job.tasks, job.evaluation, tokenizer_files=job.pool.tokenizer_files,
            where=job.pool.refs[0], progress=progress, ranks=ranks,
        )
    )  # fmt: skip
    scorer = ranks.together(lambda: job.scorer(evaluator, partial.path))
    # The uniform soup is scored in the end, and three models are on what reports.
    after = scorer.n + 3 * sum(len(pixels.rows) for pixels in evaluator.pixels[len(job.selecting) :])
    trials = SearchTrials(scorer, journal, job.options, after)
    order, found, more = _searched(job, trials, blocks)
    soup = partial.path / SOUP
    written = merge(
        [job.pool.refs[m] for m in found.members], soup,
        method=found.soup.method, parameters=found.soup.parameters,
        model=job.model, preprocess=job.preprocess, allow_single=True,
        options=RunOptions(device=job.evaluation.device), progress=progress,
    )  # fmt: skip
    scorer.fill(found.soup)
    ranks.together(lambda: _check_written(soup, scorer))
    document, notes = describe(trials, order, found, job.target, written.fingerprint)
    document.update(more)
    document["report"] = reports(trials, order, found, job.target, written.fingerprint, partial.path)
    document["settings"] = job.subject()
    document["seconds"] = time.perf_counter() - started
    for note in notes if ranks.leads else ():
        progress.note(note)
    ranks.lead(lambda: publish(partial, document, picture, fresh=fresh))
    return document, notes


def _check_written(soup: Path, scorer: Scorer) -> None:
    with open_checkpoint(soup) as file:
        if odd := scorer.running_sum.differences(file):
            raise SoupkitError("the soup on disk is not the one that was scored", f"{soup}, tensor {odd[0]!r}")


def _searched(job: Job, trials: SearchTrials, blocks: tuple[str, ...]) -> tuple[list[int], ScoredSoup, dict[str, Any]]:
    """Score the ingredients and search. Interrupted, the best soup so far is offered."""
    speaks = job.progress if job.ranks.leads else SILENT
    try:
        order = trials.score_ingredients()
        for doubt in trials.doubts:
            speaks.note(doubt)
        found, more = _found(trials, order, blocks)
    except KeyboardInterrupt:
        speaks.finish()
        if (best := trials.best_so_far()) is not None:
            speaks.note(so_far(job.pool, *best, job.target, job.model, job.preprocess))
        raise
    return order, found, more


def _found(trials: SearchTrials, order: list[int], blocks: tuple[str, ...]) -> tuple[ScoredSoup, dict[str, Any]]:
    """Search by the strategy of the options; returns the soup, and what else the strategy has to say."""
    options = trials.options
    if options.strategy == "weights":
        return mix(trials, order, blocks, options.budget, options.seed), {}
    if options.strategy == "experts":
        return _experts(trials, order)
    if options.orders > 1:
        return random_orders(trials, order, options.orders, options.seed), {}
    return {"greedy": greedy, "backward": backward, "swap": swap}[options.strategy](trials, order), {}


def _experts(trials: SearchTrials, order: list[int]) -> tuple[ScoredSoup, dict[str, Any]]:
    options, refs = trials.options, trials.pool.refs
    values = tasks_by_ingredients(trials.ingredients)
    correlation = correlations(values)
    groups = trials.agree(group_tasks(correlation, options.correlation, most_groups(options.budget)))
    experts = choose_experts(values, groups, order)
    names = [f"{t.name}:{t.split}" for t in trials.scorer.tasks]
    standing = mix_experts(trials, order, experts, options.budget)
    scores = trials.by_members()
    shares = shapley_shares(standing.members, scores)
    return standing, {
        "groups": [
            {"tasks": [names[t] for t in group], "expert": refs[expert]}
            for group, expert in zip(groups, experts, strict=True)
        ],
        "correlations": correlation.tolist(),
        "shapley": {
            "shares": [{"ref": refs[m], "share": shares[m]} for m in standing.members],
            "subsets": 2 ** len(standing.members) - 1,
            "scored": known_subsets(standing.members, scores),
        },
    }
