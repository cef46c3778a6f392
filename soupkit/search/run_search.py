"""`search`: from ingredients and tasks to the best soup that the strategy finds, as a soup directory."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from soupkit.checkpoint.partial import PartialDirectory
from soupkit.checkpoint.reference import open_checkpoint
from soupkit.errors import ArchitectureError, SoupkitError, UsageError
from soupkit.evaluation.content_digest import content_of
from soupkit.evaluation.evaluator import Evaluator
from soupkit.evaluation.heads import HeadOptions
from soupkit.evaluation.options import EvaluationOptions, default_cache
from soupkit.evaluation.tasks import open_tasks
from soupkit.merging.run_merge import RunOptions, merge
from soupkit.progress import SILENT, Progress
from soupkit.ranks import joined_ranks
from soupkit.scratch import ScratchDirectory
from soupkit.search.candidate import ScoredSoup
from soupkit.search.chosen_metric import select_by
from soupkit.search.custom_score import CustomScore
from soupkit.search.document import SearchDocument
from soupkit.search.ingredients import open_ingredients, said_of_tasks
from soupkit.search.journal import Journal
from soupkit.search.live_soups import LiveSoups
from soupkit.search.merge_command import so_far
from soupkit.search.mixing_gradient import MixingGradient
from soupkit.search.names import JOURNAL, SOUP
from soupkit.search.narration import Narration
from soupkit.search.options import SearchOptions
from soupkit.search.output import Picture, check_output, is_a_search, publish, take_output
from soupkit.search.prepared import PreparedSearch, SearchPlan
from soupkit.search.reporting import describe, doubts
from soupkit.search.score_function import check_function
from soupkit.search.scorers import open_scorer, open_shower
from soupkit.search.trials import SearchTrials


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What came of a search. `status` is "written", "unchanged" (it was there already) or "planned" (a dry run, which
    has a `plan` and no document); `document` is what `search.json` holds."""

    status: str
    output: Path
    seconds: float
    notes: tuple[str, ...] = ()
    search: SearchDocument | None = None
    plan: SearchPlan | None = None

    @property
    def document(self) -> SearchDocument:
        """What `search.json` holds. Raises UsageError for a dry run, which has none."""
        if self.search is None:
            raise UsageError("a dry run finds nothing", self.output, "search without dry_run")
        return self.search


def search(
    refs: Sequence[str | Path],
    output: str | Path,
    *,
    base: str | Path | None = None,
    tasks: str | Path | Sequence[str | Path] = (),
    report_tasks: str | Path | Sequence[str | Path] = (),
    score: str | Callable[..., Any] | None = None,
    minimize: bool = False,
    score_files: Sequence[str | Path] = (),
    score_timeout: float | None = None,
    score_retries: int = 1,
    score_weight: float = 1.0,
    score_key: str | None = None,
    build: Callable[[], Any] | None = None,
    strategy: str = "greedy",
    stopping: str | None = None,
    error_rate: float = 0.05,
    accept: str = "ge",
    seed: int = 0,
    keep_going: bool = False,
    least_cosine: float | None = None,
    metric: str | None = None,
    evaluation: EvaluationOptions | None = None,
    data_root: str | Path | None = None,
    model: str | None = None,
    preprocess: str | Path | None = None,
    builder: str | None = None,
    label_map: str | Path | None = None,
    dry_run: bool = False,
    fresh: bool = False,
    picture: Picture | None = None,
    progress: Progress = SILENT,
    **options: Any,
) -> SearchResult:
    """Search for the soup of `refs` that scores best on `tasks` (the mean over them), and write it to `output`.

    The tasks select on split `val` unless a split is named; `report_tasks` (split `test` unless named) only report.
    `base` is the checkpoint that they were fine-tuned from, for merge methods that need it.

    `score` selects instead of tasks, or beside them: a command for the shell with `{model}` in it, or a function of a
    soup's directory (a `Path`), of its weights (annotated as `Mapping[str, Tensor]`) or of a live `nn.Module` that
    `build()` made, which returns a number, named numbers or hits; `minimize` to `score_key` are explained by
    `CustomScore`. Then the checkpoints need not be CLIPs.

    Classifiers with a head are scored as they are: `builder` makes those of bare weights, `label_map` says which output
    stands for each class (`soupkit evaluate` has the same).

    `strategy` and its own `options` (`orders=3`, `budget=50`, `blocks=["visual.*"]`) are those of
    `soupkit search --help`; `stopping` to `metric` are explained by `SearchOptions`. `picture` draws the document
    to a path. Interrupted at any moment, the same call goes on, and scores no image again for the same weights.

    Raises UsageError for a call that cannot work; what `merge` raises for ingredients that cannot be averaged, before
    any scoring; DataError for data that are missing or damaged; StorageError for an output or a journal in the way.

    >>> from soupkit.search.run_search import search
    >>> found = search(["runs/a", "runs/b"], "soups/small", score=lambda directory: float(directory.is_dir()))
    >>> found.document.score.value
    1.0
    """
    how = SearchOptions(
        strategy,
        stopping=stopping,
        error_rate=error_rate,
        accept=accept,
        seed=seed,
        keep_going=keep_going,
        least_cosine=least_cosine,
        metric=metric,
        **options,
    )
    custom = None
    if score is not None:
        files = tuple(Path(path) for path in score_files)
        custom = CustomScore(score, minimize, files, score_timeout, score_retries, score_weight, build, score_key)
    return run_search(
        refs, output, base=base, tasks=_listed(tasks), report_tasks=_listed(report_tasks), score=custom, options=how,
        evaluation=evaluation,
        data_root=_path(data_root), head=HeadOptions(model, builder, _path(preprocess), _path(label_map)),
        dry_run=dry_run, fresh=fresh, picture=picture, progress=progress,
    )  # fmt: skip


def greedy_search(
    refs: Sequence[str | Path],
    output: str | Path,
    *,
    tasks: Sequence[str],
    search: SearchOptions | None = None,
    model: str | None = None,
    preprocess: Path | None = None,
    **arguments: Any,
) -> SearchResult:
    """Call `search` with its options as one value: the greedy strategy unless `search` names another.

    >>> how = soupkit.EvaluationOptions(limit=20)
    >>> found = soupkit.greedy_search(["runs/a", "runs/b"], "soups/greedy", tasks=["digits"], evaluation=how)
    >>> found.document.strategy, len(found.document.ingredients)
    ('greedy', 2)
    """
    head = HeadOptions(model, None, preprocess)
    return run_search(refs, output, tasks=tasks, options=search or SearchOptions(), head=head, **arguments)


def _path(path: str | Path | None) -> Path | None:
    return Path(path) if path is not None else None


def _listed(tasks: str | Path | Sequence[str | Path]) -> list[str]:
    return [str(tasks)] if isinstance(tasks, str | Path) else [str(task) for task in tasks]


def run_search(
    refs: Sequence[str | Path],
    output: str | Path,
    *,
    tasks: Sequence[str],
    base: str | Path | None = None,
    report_tasks: Sequence[str] = (),
    score: CustomScore | None = None,
    options: SearchOptions,
    evaluation: EvaluationOptions | None = None,
    data_root: Path | None = None,
    head: HeadOptions | None = None,
    dry_run: bool = False,
    fresh: bool = False,
    picture: Picture | None = None,
    progress: Progress = SILENT,
) -> SearchResult:
    """Search as `options` say; everything else is as for `search`, and so is what it raises."""
    started = time.perf_counter()
    options.check()
    head = head or HeadOptions()
    evaluation = evaluation or EvaluationOptions(cache=default_cache())
    if score is not None:
        score.check()
        check_function(score)
    elif not tasks:
        raise UsageError("names no task to select on", "--task", "for example --task digits; or give --score COMMAND")
    target = Path(output)
    with ExitStack() as stack:
        ranks = stack.enter_context(joined_ranks())
        if evaluation.cache is None:
            temporary = stack.enter_context(ScratchDirectory())
            evaluation = replace(evaluation, cache=Path(temporary), scores=False)
        ingredients = ranks.together(
            open_ingredients, [str(r) for r in refs], target, stack, base=str(base) if base is not None else None,
            head=head, keep_going=options.keep_going, least_cosine=options.least_cosine,
            memory=evaluation.cache / "weights" if evaluation.cache else None, progress=progress,
        )  # fmt: skip
        selecting = select_by(ranks.together(open_tasks, tasks, data_root=data_root, split="val"), options.metric)
        reporting = ranks.together(open_tasks, report_tasks, data_root=data_root)
        tasks_of_both = [*selecting, *reporting]
        said = said_of_tasks(ingredients.config, tasks_of_both, ingredients.refs[0])
        notes = [*ingredients.notes, *said]
        contents = [ranks.together(content_of, task, evaluation, progress) for task in tasks_of_both]
        prepared = PreparedSearch(
            ingredients, selecting, reporting, contents, options, evaluation, ranks, progress, target, head, score,
        )  # fmt: skip
        prepared.check_options()
        for note in notes if ranks.leads else ():
            progress.note(note)
        finished = ranks.lead(check_output, prepared, fresh=fresh)
        if finished is not None:
            if ranks.leads:
                progress.note(f"{target} is there already, found among the same ingredients by the same search")
            return SearchResult("unchanged", target, time.perf_counter() - started, tuple(notes), finished)
        if dry_run:
            seconds = time.perf_counter() - started
            return SearchResult("planned", target, seconds, tuple(notes), plan=prepared.planned())
        try:
            document, more = _search(prepared, stack, notes, fresh=fresh, picture=picture, started=started)
        except torch.OutOfMemoryError as error:
            raise SoupkitError(
                "has no room left beside the model and the sum of a soup",
                f"device {evaluation.device}",
                "use another --device or --precision",
            ) from error
        return SearchResult("written", target, time.perf_counter() - started, (*notes, *more), document)


def _search(
    prepared: PreparedSearch, stack: ExitStack, said: Sequence[str], *, fresh: bool, picture: Picture | None,
    started: float,
) -> tuple[SearchDocument, list[str]]:  # fmt: skip
    """Search, write the soup, check it and describe what was found; `said` are notes on what is searched."""
    ranks, progress = prepared.ranks, prepared.progress
    partial = PartialDirectory(prepared.target, "search", recognises=is_a_search)
    shower = ranks.together(open_shower, prepared, partial.path)
    ranks.lead(_take, partial, stack, fresh)
    journal = ranks.together(Journal, partial.path / JOURNAL, prepared.subject(), writes=ranks.leads)
    live = _open_live(prepared, stack)
    scorer = ranks.together(open_scorer, prepared, live, shower, partial.path)
    # The uniform soup is scored in the end, and three models are on what reports.
    reporting = live.evaluator.pixels[len(prepared.selecting) :] if live is not None else ()
    after = scorer.n + 3 * sum(len(pixels.rows) for pixels in reporting)
    narration = Narration(progress, ranks, scorer, after)
    trials = SearchTrials(prepared.ingredients, prepared.inputs, scorer, journal, prepared.options, narration)
    if prepared.options.row.needs_gradient and live is not None:
        trials.gradient = MixingGradient(live, partial.path)
    order, chosen = _choose(prepared, trials, narration)
    soup = partial.path / SOUP
    written = merge(
        [prepared.ingredients.refs[m] for m in chosen.members], soup,
        method=chosen.soup.method, parameters=chosen.soup.parameters,
        base=prepared.ingredients.base_ref if chosen.soup.has_base else None,
        model=prepared.head.model, preprocess=prepared.head.preprocess, allow_single=True,
        options=RunOptions(device=prepared.evaluation.device), progress=progress,
    )  # fmt: skip
    if live is not None:
        live.fill(chosen.soup)
        ranks.together(_check_written, soup, live)
    document, notes = describe(
        trials, live, order, chosen, prepared.target, written.fingerprint,
        directory=partial.path, settings=prepared.subject(), ranks=ranks,
    )  # fmt: skip
    own = {"seconds": time.perf_counter() - started, "notes": (*said, *document.notes)}
    document = document.model_copy(update=own)
    for note in notes:
        narration.say(note)
    ranks.lead(publish, partial, document, picture, fresh=fresh)
    return document, notes


def _take(partial: PartialDirectory, stack: ExitStack, fresh: bool) -> None:
    stack.enter_context(partial)
    take_output(partial, fresh=fresh)


def _open_live(prepared: PreparedSearch, stack: ExitStack) -> LiveSoups | None:
    """Open the evaluator on every task, and the soups in its live model; None where no task needs them."""
    ingredients, ranks = prepared.ingredients, prepared.ranks
    if not prepared.tasks:
        return None
    if ingredients.config is None:
        raise ArchitectureError(
            "is no model that open_clip builds",
            ingredients.refs[0],
            "say which it is with --model NAME, what builds it with --builder, or search by --score COMMAND",
        )
    evaluator = stack.enter_context(
        Evaluator(
            ingredients.config, prepared.tasks, prepared.evaluation, tokenizer_files=ingredients.tokenizer_files,
            where=ingredients.refs[0], progress=prepared.progress, ranks=ranks,
        )
    )  # fmt: skip
    return ranks.together(
        LiveSoups, ingredients, ingredients.config, evaluator, len(prepared.selecting), ranks, prepared.progress
    )


def _check_written(soup: Path, live: LiveSoups) -> None:
    """Raise SoupkitError where the file's tensors are not, bit for bit, those in the live model."""
    with open_checkpoint(soup) as file:
        if different := live.running_sum.differences(file):
            raise SoupkitError(
                "is on disk not what was scored", f"{soup}, tensor {different[0]!r}", "run the same command again"
            )


def _choose(prepared: PreparedSearch, trials: SearchTrials, narration: Narration) -> tuple[list[int], ScoredSoup]:
    """Score the ingredients and search; returns their order and the best soup. Interrupted, the best so far is
    offered."""
    options = prepared.options
    try:
        order = trials.score_ingredients()
        for doubt in doubts(trials):
            narration.say(doubt)
        chosen = options.row.run(trials, order, **options.settled)
        return trials.best_alone_first(order), chosen
    except KeyboardInterrupt:
        narration.interrupted()
        if (best := trials.best_so_far()) is not None:
            soup, value = best
            shown = narration.shown(value)
            narration.say(so_far(prepared.ingredients, soup, shown, prepared.target, prepared.head))
        raise
