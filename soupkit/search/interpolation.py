"""The curve from a base to its fine-tune, scored at several points (WiSE-FT, Wortsman et al. 2021,
https://arxiv.org/abs/2109.01903)."""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from soupkit.checkpoint.architecture import Config
from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.errors import ArchitectureError, UsageError
from soupkit.evaluation.content_digest import content_of
from soupkit.evaluation.evaluator import Evaluator
from soupkit.evaluation.heads import HeadOptions
from soupkit.evaluation.options import EvaluationOptions, default_cache
from soupkit.evaluation.outcomes import score_of
from soupkit.evaluation.score_cache import ScoreCache, ScoreSettings, score_key
from soupkit.evaluation.task import Task
from soupkit.evaluation.tasks import open_tasks
from soupkit.merging.entry import SoupEntry
from soupkit.merging.live_model import fill_by
from soupkit.merging.preparation import Prepared, prepare
from soupkit.merging.tensor_runs import Reader
from soupkit.progress import SILENT, Progress
from soupkit.ranks import Ranks, joined_ranks
from soupkit.scratch import ScratchDirectory
from soupkit.search.ingredients import config_of, look_at_finite, said_of_tasks
from soupkit.search.interpolation_document import InterpolationDocument, Point
from soupkit.search.measured import shown
from soupkit.text import counted


@dataclass(frozen=True, slots=True)
class Interpolation:
    """The curve: `document` is what `interpolation.json` holds.

    >>> curve = interpolate("runs/base", ["runs/a"], tasks=["digits"], points=2, evaluation=EvaluationOptions(limit=20))
    >>> curve.document.best_alpha in (0.0, 1.0)
    True
    """

    document: InterpolationDocument
    seconds: float
    notes: tuple[str, ...]


def interpolate(
    base: str | Path,
    refs: Sequence[str | Path],
    *,
    tasks: Sequence[str],
    report_tasks: Sequence[str] = (),
    points: int = 11,
    evaluation: EvaluationOptions | None = None,
    data_root: Path | None = None,
    model: str | None = None,
    preprocess: Path | None = None,
    progress: Progress = SILENT,
) -> Interpolation:
    """Score base + alpha (mean of `refs` - base) at `points` values of alpha from 0 to 1.

    The best alpha is that of the highest mean over `tasks` (split `val` unless named; the smallest of equal ones);
    `report_tasks` (split `test`) only report. Each point is bit for bit the model that `merge` writes with method
    `interpolate`. Scores are kept in the cache, so the same call goes on where it was interrupted.

    Raises UsageError for a call that cannot work, what `merge` raises for weights that do not fit together,
    CheckpointError for weights that are not finite, DataError for data that are missing or damaged.

    >>> curve = interpolate("runs/base", ["runs/a"], tasks=["digits"], points=2, evaluation=EvaluationOptions(limit=20))
    >>> [point.alpha for point in curve.document.points]
    [0.0, 1.0]
    """
    started = time.perf_counter()
    if points < 2:
        raise UsageError("a curve has at least two points", "--points", "for example --points 11")
    if not refs:
        raise UsageError("names no fine-tune", "REF", "soupkit interpolate BASE REF")
    if not tasks:
        raise UsageError("names no task", "--task", "for example --task digits")
    evaluation = evaluation or EvaluationOptions(cache=default_cache())
    with ExitStack() as stack:
        ranks = stack.enter_context(joined_ranks())
        temporary = Path(stack.enter_context(ScratchDirectory()))
        if evaluation.cache is None:
            evaluation = replace(evaluation, cache=temporary, scores=False)
        prepared = ranks.together(_prepared, base, refs, temporary, model, preprocess, stack)
        choosing = ranks.together(open_tasks, tasks, data_root=data_root, split="val")
        reporting = ranks.together(open_tasks, report_tasks, data_root=data_root)
        head = HeadOptions(prepared.soup.model, None, prepared.soup.preprocess)
        config = config_of(prepared, len(prepared.sources), head)
        if config is None:
            ref = prepared.sources[-1].ref
            raise ArchitectureError("is no model that open_clip builds", ref, "say which it is with --model NAME")
        tasks_of_both = [*choosing, *reporting]
        notes = [*prepared.notes, *said_of_tasks(config, tasks_of_both, prepared.sources[-1].ref)]
        curve = _score_curve(prepared, config, tasks_of_both, points, evaluation, ranks, progress)
    means = [sum(s.value for s in point.scores[: len(choosing)]) / len(choosing) for point in curve]
    names = [f"{t.name}:{t.split}" for t in choosing]
    document = InterpolationDocument(
        base=str(base),
        refs=tuple(str(ref) for ref in refs),
        points=tuple(curve),
        best_alpha=curve[means.index(max(means))].alpha,
        task=names[0] if len(names) == 1 else f"mean of {', '.join(names)}",
        notes=tuple(notes),
    )
    return Interpolation(document, time.perf_counter() - started, tuple(notes))


def _prepared(
    base: str | Path,
    refs: Sequence[str | Path],
    directory: Path,
    model: str | None,
    preprocess: Path | None,
    stack: ExitStack,
) -> Prepared:
    """Open and check the base and its fine-tunes, as for a merge between them; nothing is written to `directory`."""
    soup = SoupEntry(
        ingredients=[str(ref) for ref in refs],
        method="interpolate",
        base=str(base),
        model=model,
        preprocess=preprocess,
    )
    return prepare(soup, directory / "none", stack)


def _score_curve(
    prepared: Prepared,
    config: Config,
    tasks: Sequence[Task],
    points: int,
    evaluation: EvaluationOptions,
    ranks: Ranks,
    progress: Progress,
) -> list[Point]:
    """Score the models at `points` values of alpha on `tasks`; what the cache knows is not scored again."""
    base = prepared.sources[-1]
    assert evaluation.cache is not None
    weights = evaluation.cache / "weights"
    fingerprints = ranks.together(_fingerprints, prepared.sources, weights, progress)
    cache = ScoreCache.of(evaluation)
    with Evaluator(
        config, tasks, evaluation, tokenizer_files=prepared.tokenizer_files, where=base.ref, progress=progress,
        ranks=ranks,
    ) as evaluator:  # fmt: skip
        contents = [content_of(task, evaluation) for task in tasks]
        settings = ScoreSettings.of(evaluation, evaluator.device)
        images = sum(len(pixels.rows) for pixels in evaluator.pixels)
        progress.start(f"{points} points on {counted(len(tasks), 'task')}", points * images, "images")
        reader, live = Reader(evaluator.device), evaluator.tensors(base)
        curve: list[Point] = []
        for i in range(points):
            alpha, filled, scores = i / (points - 1), False, []
            for t, task in enumerate(tasks):
                name = json.dumps(["interpolate", alpha, fingerprints])
                key = score_key(name, contents[t], task, config, prepared.tokenizer_files, settings)
                ref = f"alpha={alpha:g}"
                cached = ranks.lead(cache.get, key, ref, task)
                if cached is not None:
                    scores.append(cached[0])
                    progress.advance(cached[0].n)
                    continue
                if not filled:
                    ranks.together(fill_between, live, prepared, alpha, reader)
                    filled = True
                outcome = evaluator.run(t, [evaluator.text_side(t)], None, progress)[0]
                scores.append(score_of(outcome, task, ref, None))
                if ranks.leads:
                    cache.put(key, scores[-1], outcome, len(task.classnames))
            curve.append(Point(alpha=alpha, scores=tuple(map(shown, scores))))
        progress.finish()
    return curve


def _fingerprints(sources: Sequence[Checkpoint], memory: Path, progress: Progress) -> list[str]:
    """Return the fingerprints of weights that are finite. Raises CheckpointError for others."""
    return [look_at_finite(source, memory, progress).value for source in sources]


def fill_between(live: Mapping[str, Tensor], prepared: Prepared, alpha: float, reader: Reader) -> None:
    """Write base + alpha (mean - base) into the tensors `live`, in one pass, as `prepared`'s merge method does it."""
    *ingredients, base = prepared.sources
    if misfits := [n for n in (*live, *base) if n not in base.tensors or n not in live]:
        raise ArchitectureError(f"does not fit its config at {misfits[0]!r}", base.ref, "say which it is with --model")
    fill_by(prepared.method, live, ingredients, base, {name: {"alpha": alpha} for name in base}, reader)
