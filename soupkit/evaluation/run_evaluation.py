"""Scores any number of checkpoints on any number of tasks: what `soupkit evaluate` does."""

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from soupkit.checkpoint.hub_ref import is_hub
from soupkit.device import choose_device
from soupkit.errors import DataError, UsageError
from soupkit.evaluation.calibration_metrics import CALIBRATION
from soupkit.evaluation.candidates import Candidate, by_architecture, check_headers, open_candidate
from soupkit.evaluation.content_digest import content_of
from soupkit.evaluation.differing_pictures import differing_pictures
from soupkit.evaluation.head_labels import map_labels
from soupkit.evaluation.head_transform import transform_of
from soupkit.evaluation.heads import HeadOptions, is_head
from soupkit.evaluation.intervals import mcnemar
from soupkit.evaluation.kinds import KINDS
from soupkit.evaluation.metrics import METRICS
from soupkit.evaluation.options import EvaluationOptions, default_cache
from soupkit.evaluation.pixel_cache import open_pixels
from soupkit.evaluation.probe import Probe
from soupkit.evaluation.score_cache import Images, ScoreCache, ScoreSettings, score_key
from soupkit.evaluation.score_group import Cell, Group, Results
from soupkit.evaluation.score_probes import ProbedTask, Probing
from soupkit.evaluation.task import ClassHits, Pair, PairPictures, Reliability, Score, Task
from soupkit.evaluation.tasks import open_tasks
from soupkit.progress import SILENT, Progress
from soupkit.ranks import Ranks, joined_ranks
from soupkit.scratch import ScratchDirectory

_MOST_PICTURES = 100  # of each kind, so that a page stays one


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The scores, model by model and task by task; the first model against every other; seconds, in all and by step.

    >>> found = evaluate(["runs/a", "runs/b"], ["digits"], options=EvaluationOptions(limit=20))
    >>> [score.ref for score in found.scores], len(found.pairs)
    (['runs/a', 'runs/b'], 1)
    """

    scores: tuple[Score, ...]
    pairs: tuple[Pair, ...]
    seconds: float
    timings: dict[str, float]
    notes: tuple[str, ...] = ()
    reliability: tuple[Reliability, ...] = ()
    classes: tuple[ClassHits, ...] = ()
    differing: tuple[PairPictures, ...] = ()


def evaluate(
    refs: Sequence[str | Path],
    tasks: Sequence[str | Task],
    *,
    data_root: Path | None = None,
    model: str | None = None,
    preprocess: Path | None = None,
    builder: str | None = None,
    label_map: Path | None = None,
    options: EvaluationOptions | None = None,
    calibration: bool = False,
    per_class: bool = False,
    pictures: int = 0,
    probe: Probe | None = None,
    progress: Progress = SILENT,
) -> Evaluation:
    """Score the checkpoints `refs` on `tasks` (see `open_tasks` for their words).

    With `calibration`, what is classified is also scored by its probabilities: see `calibration_metrics`. With
    `per_class`, it is also counted by class. With a `probe`, scores are those of linear classifiers on the image
    features, fitted to the tasks' split `train`, and nothing is counted by class. Up to `pictures` of the images that
    only one of two models gets right are kept, small, for a report: for each pair, of each of the two.

    Candidates that share a tower, byte for byte, run it once. `model` and `preprocess` speak for bare weights. Scores
    that the cache holds are not taken again. Classifiers with a head are evaluated as they are: `builder` makes those
    of bare weights, `label_map` says which outputs are a task's classes (see `HeadOptions`). Under `torchrun` the ranks
    share the images of every task.

    Raises UsageError for options or tasks that do not exist; CheckpointError and ArchitectureError for weights that
    cannot be opened or are of no known architecture; DataError for data that are missing or damaged; StorageError
    where there is no room for the pixels.

    >>> evaluate(["runs/a"], ["digits:val"], options=EvaluationOptions(limit=20), calibration=True).scores[0].split
    'val'
    """
    started = time.perf_counter()
    if not refs:
        raise UsageError("names no checkpoint", "soupkit evaluate", "give one reference or more")
    twice = [ref for ref, n in Counter(map(str, refs)).items() if n > 1]
    refs = list({str(ref): ref for ref in refs}.values())
    if not tasks:
        raise UsageError("names no task", "--task", "for example --task digits")
    if probe is not None and per_class:
        raise UsageError("counts no probes", "--per-class", "leave --probe out, or --per-class")
    if not 0 <= pictures <= _MOST_PICTURES:
        raise UsageError(f"{pictures} is out of bounds", "--pictures", f"it goes from 0 up to {_MOST_PICTURES}")
    options = options or EvaluationOptions(cache=default_cache())
    with ExitStack() as stack:
        ranks = stack.enter_context(joined_ranks())
        opened = ranks.together(_opened, tasks, data_root, calibration)
        notes = [f"{ref} is given more than once and is scored once" for ref in twice]
        notes += [note for task in opened for note in task.notes]
        if options.cache is None:  # one temporary directory for the whole run
            directory = stack.enter_context(ScratchDirectory())
            options = replace(options, cache=Path(directory), scores=False)
        said = HeadOptions(model, builder, preprocess, label_map)
        candidates: list[Candidate] = []
        for ref in filter(is_hub, refs):  # what no task can be run on is not worth a download
            ranks.together(check_headers, ref, said)
        try:
            for ref in refs:
                candidates.append(ranks.together(open_candidate, ref, said, options, progress))
                notes += [f"{ref}: {note}" for note in candidates[-1].checkpoint.notes]
                notes += ranks.together(_said_of_head, candidates[-1], opened)
            if probe is None:
                results = _score_all(candidates, opened, options, progress, ranks, per_class)
            else:
                probed = ranks.together(_with_training_splits, opened, probe, data_root)
                probing = Probing(probed, probe, options, ranks, progress)
                probing.check(candidates)
                results, said_of_probes = probing.score(candidates)
                notes += said_of_probes
                opened = [each.task for each in probed]
            differing = ranks.together(_pictures, results, candidates, opened, options, pictures, progress)
        finally:
            for candidate in candidates:
                candidate.checkpoint.close()
    scores = tuple(results.scores[c, t] for c in range(len(candidates)) for t in range(len(opened)))
    pairs = tuple(
        _pair(results, task, t, candidates[0].ref, candidates[c].ref, c)
        for t, task in enumerate(opened)
        for c in range(1, len(candidates))
        if (0, t) in results.hits and (c, t) in results.hits
    )
    notes += _shared(results, opened)
    reliability = tuple(
        Reliability(score.ref, score.task, score.split, bins)
        for cell, score in sorted(results.scores.items())
        if (bins := results.bins.get(cell))
    )
    classes = tuple(
        ClassHits(score.ref, score.task, score.split, opened[t].classnames, *results.classes[c, t])
        for (c, t), score in sorted(results.scores.items())
        if per_class and (c, t) in results.classes
    )
    return Evaluation(
        scores, pairs, time.perf_counter() - started, results.timings, tuple(notes), reliability, classes, differing
    )


def _pictures(
    results: Results, candidates: Sequence[Candidate], tasks: Sequence[Task], options: EvaluationOptions, most: int,
    progress: Progress,
) -> tuple[PairPictures, ...]:  # fmt: skip
    """Return some pictures that the first model and another differ on, for each task of classification."""
    found: list[PairPictures] = []
    for t, task in enumerate(tasks if most and options.cache is not None else ()):
        others = [c for c in range(1, len(candidates)) if (0, t) in results.hits and (c, t) in results.hits]
        if task.kind != "classification" or not others:
            continue
        first, content = candidates[0], content_of(task, options, progress)
        assert options.cache is not None
        pixels = open_pixels(
            task, transform_of(first.config, first.ref), options.cache, content,
            limit=options.limit, skip_corrupt=options.skip_corrupt, progress=progress,
        )  # fmt: skip
        found += [
            differing_pictures(
                pixels, task, (first.ref, candidates[c].ref), (results.hits[0, t], results.hits[c, t]), most
            )
            for c in others
        ]
    return tuple(found)


def _said_of_head(candidate: Candidate, tasks: Sequence[Task]) -> list[str]:
    """Say how the outputs of a head were brought together with each task's classes."""
    if not is_head(candidate.config):
        return []
    classified = [task for task in tasks if KINDS[task.kind].has_classes]
    maps = {task.name: map_labels(candidate.config, task, candidate.ref).how for task in classified}
    return [f"{candidate.ref} on {name}: outputs are classes {how}" for name, how in maps.items()]


def _with_training_splits(tasks: Sequence[Task], probe: Probe, data_root: Path | None) -> tuple[ProbedTask, ...]:
    """Open the split `train` of each task. Raises DataError where there is none, and for one with other classes."""
    trains = [open_tasks([f"{task.name}:train"], data_root=data_root)[0] for task in tasks]
    for task, train in zip(tasks, trains, strict=True):
        if task.classnames != train.classnames:
            there, here = set(train.classnames), set(task.classnames)
            odd = next(iter(sorted(there ^ here)), "the order of the names")
            what = f"has other classes than the split {task.split} of {task.name} ({odd!r} is in one of them)"
            raise DataError(
                what, train.dataset.place, "name the classes of both in one classnames.txt beside the splits"
            )
    return tuple(ProbedTask(probe.named(task), train) for task, train in zip(tasks, trains, strict=True))


def _opened(tasks: Sequence[str | Task], data_root: Path | None, calibration: bool) -> list[Task]:
    opened: list[Task] = []
    for task in tasks:
        opened += open_tasks([task], data_root=data_root) if isinstance(task, str) else [task]
    names = [f"{task.name}:{task.split}" for task in opened]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"names {twice[0]} twice", "--task", "name each task once")
    return [_with_calibration(task) for task in opened] if calibration else opened


def _with_calibration(task: Task) -> Task:
    names = [name for name in CALIBRATION if METRICS[name].kind == task.kind]
    return replace(task, also=tuple(dict.fromkeys([*task.also, *names])))


def _score_all(
    candidates: list[Candidate],
    tasks: list[Task],
    options: EvaluationOptions,
    progress: Progress,
    ranks: Ranks,
    per_class: bool,
) -> Results:
    results, cache = Results(), ScoreCache.of(options)
    settings = ScoreSettings.of(options, choose_device(options.device, ranks.local))
    began = time.perf_counter()
    contents = [ranks.together(content_of, task, options, progress) for task in tasks]

    def keep_images(t: int, images: Images) -> None:
        cache.put_images(contents[t], settings, images)

    keys: dict[Cell, str] = {}
    for t, (task, content) in enumerate(zip(tasks, contents, strict=True)):
        results.images[t] = cache.images(content, settings)
        for c, candidate in enumerate(candidates):
            files = candidate.checkpoint.tokenizer_files
            keys[c, t] = score_key(candidate.fingerprint.value, content, task, candidate.config, files, settings)
            # One rank's word counts: the ranks must agree on what is left to do.
            cached = ranks.lead(cache.get, keys[c, t], candidate.ref, task)
            counted = cached is None or cached.classes is not None or cached.hits is None
            if cached is not None and (counted or not per_class):
                results.scores[c, t], results.bins[c, t] = cached.score, cached.bins
                if cached.classes is not None:
                    results.classes[c, t] = cached.classes
                if cached.hits is not None:
                    results.hits[c, t] = cached.hits
    results.spent("open", began)
    missing = frozenset(keys) - frozenset(results.scores)
    for members in by_architecture(candidates, sorted({c for c, _ in missing})):
        wanted = sorted({t for c, t in missing if c in members})
        Group(
            {c: candidates[c] for c in members}, {t: tasks[t] for t in wanted}, missing, keys,
            cache, keep_images, options, ranks, progress,
        ).score(results)  # fmt: skip
    return results


def _shared(results: Results, tasks: list[Task]) -> list[str]:
    """Say which tasks have images in common: a choice made on one of them says too much about the other."""
    hashes = [set(results.images.get(t, Images()).hashes) for t in range(len(tasks))]
    return [
        f"{a.name}:{a.split} and {b.name}:{b.split} share {count:,} images"
        for (i, a), (j, b) in combinations(enumerate(tasks), 2)
        if (count := len(hashes[i] & hashes[j]))
    ]


def _pair(results: Results, task: Task, t: int, first: str, second: str, c: int) -> Pair:
    one, other = results.hits[0, t], results.hits[c, t]
    only = [np.flatnonzero(one & ~other), np.flatnonzero(other & ~one)]
    keys = results.images.get(t, Images()).keys
    named = [tuple(keys[i] for i in rows) if keys else () for rows in only]
    return Pair(first, second, task.name, task.split, len(only[0]), len(only[1]), mcnemar(one, other), *named)
