"""Scores any number of checkpoints on any number of tasks: what `soupkit evaluate` does."""

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from torch import Tensor

from soupkit.checkpoint.architecture import Config, architecture_of
from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.fingerprint import Fingerprint, fingerprint
from soupkit.checkpoint.hub import is_hub
from soupkit.checkpoint.reference import open_checkpoint, open_headers
from soupkit.device import choose_device
from soupkit.errors import ArchitectureError, UsageError
from soupkit.evaluation.content_digest import remembered
from soupkit.evaluation.evaluator import EvaluationOptions, Evaluator, content_of, default_cache, precision_dtype
from soupkit.evaluation.metrics import mcnemar
from soupkit.evaluation.outcomes import Hits, score_of
from soupkit.evaluation.score_cache import Images, ScoreCache, score_key
from soupkit.evaluation.task import Score, Task
from soupkit.evaluation.tasks import open_tasks
from soupkit.progress import SILENT, Progress
from soupkit.ranks import Ranks, joined_ranks


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models on one task, image by image: how many only one of them gets right, McNemar's exact p-value, and which
    images those are (their keys; empty where the scores came from the cache of another place)."""

    first: str
    second: str
    task: str
    split: str
    only_first: int
    only_second: int
    p: float
    images_only_first: tuple[str, ...] = ()
    images_only_second: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The scores, model by model and task by task; the first model against every other; seconds, in all and by step."""

    scores: tuple[Score, ...]
    pairs: tuple[Pair, ...]
    seconds: float
    timings: dict[str, float]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Candidate:
    ref: str
    checkpoint: Checkpoint
    config: Config
    fingerprint: Fingerprint


@dataclass(slots=True)
class _Work:
    """What is known so far: scores and hits by candidate and task, seconds by step."""

    scores: dict[tuple[int, int], Score] = field(default_factory=dict)
    hits: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)
    images: dict[int, Images] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("open", "text", "images"), 0.0))


def evaluate(
    refs: Sequence[str | Path],
    tasks: Sequence[str | Task],
    *,
    data_root: Path | None = None,
    model: str | None = None,
    preprocess: Path | None = None,
    options: EvaluationOptions | None = None,
    progress: Progress = SILENT,
) -> Evaluation:
    """Score the checkpoints `refs` on `tasks` (see `open_tasks` for their words).

    Candidates that share a tower, byte for byte, run it once. `model` and `preprocess` speak for bare weights. Scores
    that the cache holds are not taken again. Under `torchrun` the ranks share the images of every task.

    Raises UsageError for options or tasks that do not exist; CheckpointError and ArchitectureError for weights that
    cannot be opened or are of no known architecture; DataError for data that are missing or damaged; StorageError
    where there is no room for the pixels.
    """
    started = time.perf_counter()
    if not refs:
        raise UsageError("names no checkpoint", "evaluate", "give one reference or more")
    if len(set(map(str, refs))) < len(refs):
        raise UsageError("names a checkpoint twice", "evaluate", "give each reference once")
    if not tasks:
        raise UsageError("names no task", "--task", "for example --task digits")
    options = options or EvaluationOptions(cache=default_cache())
    with ExitStack() as stack:
        ranks = stack.enter_context(joined_ranks())
        opened = ranks.together(lambda: _opened(tasks, data_root))
        notes = [note for task in opened for note in task.notes]
        if options.cache is None:  # one temporary place for the whole run
            place = stack.enter_context(TemporaryDirectory(prefix="soupkit-"))
            options = replace(options, cache=Path(place), scores=False)
        candidates: list[_Candidate] = []
        for ref in filter(is_hub, refs):  # what no task can be run on is not worth a download
            ranks.together(lambda ref=ref: _check_headers(ref, model, preprocess))  # type: ignore[misc]
        try:
            for ref in refs:
                candidates.append(ranks.together(lambda ref=ref: _open(ref, model, preprocess, options, progress)))  # type: ignore[misc]
                notes += [f"{ref}: {note}" for note in candidates[-1].checkpoint.notes]
            work = _score_all(candidates, opened, options, progress, ranks)
        finally:
            for candidate in candidates:
                candidate.checkpoint.close()
    scores = tuple(work.scores[c, t] for c in range(len(candidates)) for t in range(len(opened)))
    pairs = tuple(
        _pair(work, opened[t], t, candidates[0].ref, candidates[c].ref, c)
        for t in range(len(opened))
        for c in range(1, len(candidates))
        if (0, t) in work.hits and (c, t) in work.hits
    )
    notes += _shared(work, opened)
    return Evaluation(scores, pairs, time.perf_counter() - started, work.timings, tuple(notes))


def _opened(tasks: Sequence[str | Task], data_root: Path | None) -> list[Task]:
    found = [
        t for text in tasks for t in (open_tasks([text], data_root=data_root) if isinstance(text, str) else [text])
    ]
    names = [(t.name, t.split) for t in found]
    if twice := [n for n in names if names.count(n) > 1]:
        raise UsageError(f"{twice[0][0]}:{twice[0][1]} is given twice", "--task", "name each task once")
    return found


def _check_headers(ref: str | Path, model: str | None, preprocess: Path | None) -> None:
    with open_headers(ref) as headers:
        _config_of(headers, model, preprocess)


def _config_of(checkpoint: Checkpoint, model: str | None, preprocess: Path | None) -> Config:
    config = architecture_of(checkpoint, model=model, preprocess=preprocess).config
    if config is None:
        raise ArchitectureError(
            "is no model that open_clip builds", checkpoint.ref, "say which it is with --model NAME"
        )
    return config


def _open(
    ref: str | Path, model: str | None, preprocess: Path | None, options: EvaluationOptions, progress: Progress
) -> _Candidate:
    checkpoint = open_checkpoint(ref, progress=progress)
    try:
        config = _config_of(checkpoint, model, preprocess)
        paths = [str(path) for path in checkpoint.files]
        memory = options.cache / "fingerprints" if options.cache is not None else None

        def compute() -> dict[str, str]:
            value = fingerprint(checkpoint, progress=progress)
            return {"value": value.value, "image": value.image, "text": value.text}

        known = remembered(paths, memory, str(ref), ("value", "image", "text"), compute)
        return _Candidate(str(ref), checkpoint, config, Fingerprint(**known))
    except BaseException:
        checkpoint.close()
        raise


def _score_all(
    candidates: list[_Candidate], tasks: list[Task], options: EvaluationOptions, progress: Progress, ranks: Ranks
) -> _Work:
    work = _Work()
    cache = ScoreCache(options.cache / "scores" if options.cache is not None and options.scores else None)
    device = choose_device(options.device, ranks.local)
    counted = [options.limit, options.skip_corrupt]
    # The searches name their scores in the same words; they never compile.
    settings = [device.type, str(precision_dtype(options.precision, device)), *counted]
    settings += ["compiled"] if options.compile else []
    began = time.perf_counter()
    keys: dict[tuple[int, int], str] = {}
    contents: list[str] = []
    for t, task in enumerate(tasks):
        content = ranks.together(lambda task=task: content_of(task, options, progress))  # type: ignore[misc]
        work.images[t] = cache.images(content, counted)
        contents.append(content)
        for c, candidate in enumerate(candidates):
            files = candidate.checkpoint.tokenizer_files
            key = score_key(candidate.fingerprint.value, content, task, candidate.config, files, settings)
            keys[c, t] = key
            # One rank's word counts: the ranks must agree on what is left to do.
            found = ranks.lead(lambda k=key, r=candidate.ref, t=task: cache.get(k, r, t))  # type: ignore[misc]
            if found is not None:
                work.scores[c, t] = found[0]
                if found[1] is not None:
                    work.hits[c, t] = found[1]
    work.timings["open"] += time.perf_counter() - began
    missing = [(c, t) for c in range(len(candidates)) for t in range(len(tasks)) if (c, t) not in work.scores]
    for group in _groups(candidates, sorted({c for c, _ in missing})):
        _score_group(candidates, group, tasks, missing, keys, work, cache, options, progress, ranks)
    if ranks.leads:
        for t in {t for _, t in missing}:
            cache.put_images(contents[t], counted, work.images[t])
    return work


def _groups(candidates: list[_Candidate], chosen: list[int]) -> list[list[int]]:
    """Group candidates by config: those of one group fit into one live model."""
    groups: dict[str, list[int]] = {}
    for c in chosen:
        files = [str(f.name) for f in candidates[c].checkpoint.tokenizer_files]
        groups.setdefault(json.dumps([candidates[c].config, files], sort_keys=True), []).append(c)
    return list(groups.values())


def _score_group(
    candidates: list[_Candidate],
    group: list[int],
    tasks: list[Task],
    missing: list[tuple[int, int]],
    keys: dict[tuple[int, int], str],
    work: _Work,
    cache: ScoreCache,
    options: EvaluationOptions,
    progress: Progress,
    ranks: Ranks,
) -> None:
    """Score candidates of one architecture, image tower by image tower, on what they miss."""
    began = time.perf_counter()
    first = candidates[group[0]]
    wanted = sorted({t for c, t in missing if c in group})
    towers: dict[str, list[int]] = {}
    for c in group:
        towers.setdefault(candidates[c].fingerprint.image, []).append(c)
    with Evaluator(
        first.config,
        [tasks[t] for t in wanted],
        options,
        tokenizer_files=first.checkpoint.tokenizer_files,
        where=first.ref,
        progress=progress,
        ranks=ranks,
    ) as evaluator:
        for i, t in enumerate(wanted):
            pixels = evaluator.pixels[i]
            work.images[t] = Images(*(tuple(names[r] for r in pixels.rows) for names in (pixels.keys, pixels.hashes)))
        passes = [
            (i, t, cs) for cs in towers.values() for i, t in enumerate(wanted) if any((c, t) in missing for c in cs)
        ]
        total = sum(len(work.images[t].keys) for _, t, _ in passes)
        work.timings["open"] += time.perf_counter() - began
        progress.start(f"scoring {len(group)} models on {len(wanted)} tasks", total, "images")
        sides: dict[tuple[str, int], Tensor] = {}
        for members in towers.values():
            for c in members:
                began = time.perf_counter()
                evaluator.load(candidates[c].checkpoint)
                text = candidates[c].fingerprint.text
                for i, t in enumerate(wanted):
                    if (c, t) in missing and (text, t) not in sides:
                        sides[text, t] = ranks.together(lambda i=i: evaluator.text_side(i))  # type: ignore[misc]
                work.timings["text"] += time.perf_counter() - began
            began = time.perf_counter()
            for i, t in enumerate(wanted):
                asked = [c for c in members if (c, t) in missing]
                texts = list(dict.fromkeys(candidates[c].fingerprint.text for c in asked))
                if not asked:
                    continue
                outcomes = dict(zip(texts, evaluator.run(i, [sides[x, t] for x in texts], None, progress), strict=True))
                for c in asked:
                    outcome = outcomes[candidates[c].fingerprint.text]
                    work.scores[c, t] = score_of(outcome, tasks[t], candidates[c].ref, candidates[c].fingerprint.value)
                    if isinstance(outcome, Hits):
                        work.hits[c, t] = outcome.top1
                    if ranks.leads:
                        cache.put(keys[c, t], work.scores[c, t], outcome)
            work.timings["images"] += time.perf_counter() - began
            # A text tower that no later candidate has is not needed any more: memory stays flat in their number.
            left = {candidates[c].fingerprint.text for cs in list(towers.values()) for c in cs if c > max(members)}
            sides = {key: value for key, value in sides.items() if key[0] in left}
        progress.finish()
        for candidate in (candidates[c] for c in group):
            candidate.checkpoint.check_unchanged()


def _shared(work: _Work, tasks: list[Task]) -> list[str]:
    """Say which tasks have images in common: a choice made on one of them says too much about the other."""
    hashes = [set(work.images[t].hashes) for t in range(len(tasks))]
    return [
        f"{a.name}:{a.split} and {b.name}:{b.split} share {count:,} images"
        for (i, a), (j, b) in combinations(enumerate(tasks), 2)
        if (count := len(hashes[i] & hashes[j]))
    ]


def _pair(work: _Work, task: Task, t: int, first: str, second: str, c: int) -> Pair:
    one, other = work.hits[0, t], work.hits[c, t]
    only = [np.flatnonzero(one & ~other), np.flatnonzero(other & ~one)]
    keys = work.images[t].keys
    named = [tuple(keys[i] for i in rows) if keys else () for rows in only]
    return Pair(first, second, task.name, task.split, len(only[0]), len(only[1]), mcnemar(one, other), *named)
