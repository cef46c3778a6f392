"""What a search found, in the words of `search.json`: scores, how honest they are, and why one ingredient won."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from soupkit.checkpoint.lineage import compare_weights
from soupkit.evaluation.outcomes import score_of
from soupkit.evaluation.task import Score
from soupkit.files import write_cached
from soupkit.search.candidate import ScoredSoup, uniform
from soupkit.search.trials import Decision, SearchTrials
from soupkit.version import __version__

UNIFORM = "uniform"


def describe(
    trials: SearchTrials, order: Sequence[int], found: ScoredSoup, target: Path, print_: str | None
) -> tuple[dict[str, Any], list[str]]:
    """Return the document of a search that ended with `found`, and notes for a person that were not said yet."""
    scorer, pool = trials.scorer, trials.pool
    best = trials.ingredients[order[0]]
    shared = _shared(trials)
    notes = [note for _, note in shared]
    if mixtures := sum(d.action == "mix" for d in trials.decisions):
        notes.append(
            f"{mixtures} mixtures were compared on the images that select, and the best score of many is optimistic"
            + ("" if len(scorer.evaluator.tasks) > len(scorer.tasks) else ": --report-task says what it is worth")
        )
    score = replace(scorer.combined(trials.seen(found.soup)), ref=str(target), fingerprint=print_)
    of_all = trials.seen(uniform(range(len(pool))))
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
        "weights": found.soup.weights,
        "score": asdict(score),
        "best_ingredient": asdict(scorer.combined(best)),
        "uniform": asdict(replace(scorer.combined(of_all), ref=UNIFORM, fingerprint=None)),
        "images_scored": sum(alone) + sum(d.images_scored for d in trials.decisions),
        "images_full": sum(1 for n in alone if n) * scorer.n
        + scorer.n * sum(1 for d in trials.decisions if len(d.soup) > 1 or d.action != "start"),
        "optimistic": any(n for n, _ in shared),
        "why": why,
        "notes": [*trials.doubts, *notes],
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


def _why(trials: SearchTrials, order: Sequence[int], found: ScoredSoup) -> str | None:
    """Say why the best soup is one ingredient; None where it is not."""
    if len(found.members) > 1:
        return None
    pool, scorer = trials.pool, trials.scorer
    name = pool.refs[found.members[0]]
    best = scorer.value(trials.seen(found.soup)) or 0.0
    pairs: dict[tuple[str, ...], tuple[float, str]] = {}
    for d in trials.decisions:
        if len(d.soup) == 2:
            others = tuple(ref for ref in d.soup if ref != name)
            pairs[others] = max(pairs.get(others, (-2.0, "")), _outcome(d, trials.options.stopping))
    tried = [f"with {others[0]}" if len(others) == 1 else " with ".join(others) for others in pairs]
    shown = [f"{pair}: {text}" for pair, (_, text) in zip(tried, pairs.values(), strict=True)]
    distances = scorer.ranks.together(lambda: compare_weights(pool.checkpoints, sample=True))
    far = max((p.distance for p in distances), default=0.0)
    near = min((p.distance for p in distances), default=0.0)
    hint = (
        "they lie too far apart for an average to work: fine-tune them from one checkpoint, with smaller learning rates"
        if far >= 1
        else "more ingredients of like quality, fine-tuned from one checkpoint, or smaller learning rates could help, "
        "and so could --orders, --strategy swap, or more images to select on"
    )
    return (
        f"the best soup is {name} alone ({100 * best:.2f} %): no average with another reached it "
        f"({'; '.join(shown) or 'no pair was tried'}). The ingredients' weights are {near:.2f} to {far:.2f} apart, "
        f"relative to their size; {hint}"
    )


def _outcome(d: Decision, stopping: str) -> tuple[float, str]:
    """Return what became of a trial, to be compared with others of the same members, and in words."""
    if d.value is not None:
        return d.value, f"{100 * d.value:.2f} %"
    if stopping == "sequential":
        return -1.0, f"lower, on the evidence of {d.images:,} images"
    return -1.0, f"certain to be lower after {d.images:,} images"


def reports(
    trials: SearchTrials, order: Sequence[int], found: ScoredSoup, target: Path, print_: str | None, directory: Path
) -> list[dict[str, Any]]:
    """Score the soup, the best ingredient and the uniform soup on the tasks that only report."""
    scorer, pool = trials.scorer, trials.pool
    evaluator, selecting = scorer.evaluator, len(scorer.tasks)
    best = order[0]
    named = [
        (found.soup, str(target), print_),
        (uniform([best]), pool.refs[best], pool.fingerprints[best].value),
        (uniform(range(len(pool))), UNIFORM, None),
    ]
    if found.soup == named[1][0]:
        del named[1]
    scores: list[dict[str, Any]] = []
    for t in range(selecting, len(evaluator.tasks)):
        task = evaluator.tasks[t]
        for soup, ref, value in named:
            path = directory / "scores" / f"report-{t}-{scorer.key(soup)}.json"
            score = scorer.ranks.lead(lambda p=path: _read(p))  # type: ignore[misc]
            if score is None:
                scorer.fill(soup)
                scorer.progress.start(f"{ref} on {task.name}:{task.split}", len(evaluator.pixels[t].rows), "images")
                outcome = evaluator.run(t, [evaluator.text_side(t)], None, scorer.progress)[0]
                scorer.progress.finish()
                score = asdict(score_of(outcome, task, ref, value))
                if scorer.ranks.leads:
                    write_cached(path, json.dumps(score))
            scores.append({**score, "ref": ref, "fingerprint": value})
    return scores


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return asdict(Score(**json.loads(path.read_text())))
    except (OSError, ValueError, TypeError):
        return None
