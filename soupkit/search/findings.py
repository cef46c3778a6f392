"""What a search found, in the words of `search.json`: scores, how honest they are, and why one ingredient won."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from soupkit.checkpoint.lineage import compare_weights
from soupkit.evaluation.content import write_whole
from soupkit.evaluation.data import Score
from soupkit.evaluation.outcomes import score_of
from soupkit.search.strategies import Standing
from soupkit.search.trials import SearchTrials, spread
from soupkit.version import __version__

_TELLING = 0.05  # half an interval beyond which a task says little about fine-tunes of one model
UNIFORM = "uniform"


def describe(
    trials: SearchTrials, order: Sequence[int], found: Standing, target: Path, print_: str | None
) -> tuple[dict[str, Any], list[str]]:
    """Return the document of a search that ended with `found`, and notes for a person."""
    scorer, pool = trials.scorer, trials.pool
    everyone = tuple(range(len(pool)))
    best = trials.ingredients[order[0]]
    notes = []
    if not scorer.by_hits and trials.options.stopping != "none":
        notes.append("the score is no sum of hits: every trial was a full pass")
    if spread(best) > _TELLING:
        notes.append(
            f"{scorer.n} images select: scores are known to +-{100 * spread(best):.1f} points, too few to tell the "
            "ingredients apart"
        )
    shared = _shared(trials)
    notes += [note for _, note in shared]
    score = replace(scorer.combined(trials.seen(found.members)), ref=str(target), fingerprint=print_)
    uniform = replace(scorer.combined(trials.seen(everyone)), ref=UNIFORM, fingerprint=None)
    alone = [seen.scored for seen in trials.ingredients]
    why = _why(trials, order, found)
    document: dict[str, Any] = {
        "schema": 1,
        "soupkit": __version__,
        "strategy": trials.options.strategy,
        "stopping": trials.options.stopping if scorer.by_hits else "none",
        "accept": trials.options.accept,
        "ingredients": [asdict(scorer.combined(seen)) for seen in trials.ingredients],
        "decisions": [{**asdict(d), "soup": list(d.soup)} for d in trials.decisions],
        "selected": [pool.refs[m] for m in found.members],
        "score": asdict(score),
        "best_ingredient": asdict(scorer.combined(best)),
        "uniform": asdict(uniform),
        "images_scored": sum(alone) + sum(d.images_scored for d in trials.decisions),
        "images_full": sum(1 for n in alone if n) * scorer.n
        + scorer.n * sum(1 for d in trials.decisions if len(d.soup) > 1 or d.action != "start"),
        "optimistic": any(n for n, _ in shared),
        "why": why,
        "notes": list(notes),
    }
    if why:
        notes.append(why)
    return document, notes


def _shared(trials: SearchTrials) -> list[tuple[int, str]]:
    """Return the counts of images that selecting and reporting tasks share, with a sentence each."""
    evaluator, selecting = trials.scorer.evaluator, len(trials.scorer.tasks)
    found = []
    for r in range(selecting, len(evaluator.tasks)):
        for s in range(selecting):
            if n := evaluator.shared_images(s, r):
                one, other = (f"{evaluator.tasks[i].name}:{evaluator.tasks[i].split}" for i in (r, s))
                found.append((n, f"{one} shares {n} images with {other}, which selects: its score is optimistic"))
    return found


def _why(trials: SearchTrials, order: Sequence[int], found: Standing) -> str | None:
    """Say why the best soup is one ingredient; None where it is not."""
    if len(found.members) > 1:
        return None
    pool, scorer = trials.pool, trials.scorer
    best = scorer.value(trials.seen(found.members)) or 0.0
    pairs = []
    for d in trials.decisions:
        if len(d.soup) == 2:
            at = f"{100 * d.value:.2f} %" if d.value is not None else f"certain to be lower after {d.images:,} images"
            if d.value is None and trials.options.stopping == "sequential":
                at = f"lower, on the evidence of {d.images:,} images"
            pairs.append(f"with {d.ref}: {at}")
    distances = compare_weights(pool.checkpoints, sample=True)
    far = max((p.distance for p in distances), default=0.0)
    near = min((p.distance for p in distances), default=0.0)
    hint = (
        "they lie too far apart for an average to work: fine-tune them from one checkpoint, with smaller learning rates"
        if far >= 1
        else "more ingredients of like quality, fine-tuned from one checkpoint, or smaller learning rates could help, "
        "and so could --orders, --strategy swap, or more images to select on"
    )
    name = pool.refs[found.members[0]]
    return (
        f"the best soup is {name} alone ({100 * best:.2f} %): no average with another reached it "
        f"({'; '.join(pairs) or 'no pair was tried'}). The ingredients' weights are {near:.2f} to {far:.2f} apart, "
        f"relative to their size; {hint}"
    )


def reports(
    trials: SearchTrials, order: Sequence[int], found: Standing, target: Path, print_: str | None, directory: Path
) -> list[dict[str, Any]]:
    """Score the soup, the best ingredient and the uniform soup on the tasks that only report."""
    scorer, pool = trials.scorer, trials.pool
    evaluator, selecting = scorer.evaluator, len(scorer.tasks)
    everyone = tuple(range(len(pool)))
    named = {
        found.members: (str(target), print_),
        (order[0],): (pool.refs[order[0]], pool.fingerprints[order[0]].value),
        everyone: (UNIFORM, None),
    }
    if len(found.members) == 1:
        named = {found.members: (str(target), print_), everyone: (UNIFORM, None)}
    scores: list[dict[str, Any]] = []
    for t in range(selecting, len(evaluator.tasks)):
        task = evaluator.tasks[t]
        for members, (ref, value) in named.items():
            path = directory / "scores" / f"report-{t}-{scorer.key(members)}.json"
            score = scorer.ranks.lead(lambda p=path: _read(p))  # type: ignore[misc]
            if score is None:
                scorer.fill(members)
                scorer.progress.start(f"{ref} on {task.name}:{task.split}", len(evaluator.pixels[t].rows), "images")
                outcome = evaluator.run(t, [evaluator.text_side(t)], None, scorer.progress)[0]
                scorer.progress.finish()
                score = asdict(score_of(outcome, task, ref, value))
                if scorer.ranks.leads:
                    write_whole(path, json.dumps(score))
            scores.append({**score, "ref": ref, "fingerprint": value})
    return scores


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return asdict(Score(**json.loads(path.read_text())))
    except (OSError, ValueError, TypeError):
        return None
