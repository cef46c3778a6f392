"""The document of a search that is over: the scores that matter, how honest they are, and why one ingredient won."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from soupkit.checkpoint.lineage import compare_weights
from soupkit.evaluation.outcomes import score_of
from soupkit.evaluation.task import Score
from soupkit.files import write_cached
from soupkit.search.candidate import ScoredSoup, Soup, uniform
from soupkit.search.document import UNIFORM, Decision, SearchDocument, SearchScore
from soupkit.search.live_soups import LiveSoups
from soupkit.search.narration import percent
from soupkit.search.pass_scorer import read_scores
from soupkit.search.trials import SearchTrials
from soupkit.version import __version__

_TELLING = 0.05  # half an interval beyond which a task says little about fine-tunes of one model


def doubts(trials: SearchTrials, live: LiveSoups) -> list[str]:
    """Return what a person should know of the tasks that select before the first trial."""
    said = []
    if trials.scorer.metric is None and trials.options.stopping != "none":
        metrics = ", ".join(dict.fromkeys(t.metric for t in live.selecting))
        said.append(f"the score ({metrics}) is no sum of hits: every trial is a full pass")
    best = max(trials.alone, key=lambda measured: measured.whole_worth)
    if (half := best.half_interval) > _TELLING:
        said.append(
            f"{trials.scorer.n} images select: scores are known to +-{100 * half:.1f} points, too few to tell the "
            "ingredients apart"
        )
    return said


def describe(
    trials: SearchTrials, live: LiveSoups, order: Sequence[int], chosen: ScoredSoup, output: Path,
    fingerprint: str | None, *, directory: Path, settings: dict[str, Any],
) -> tuple[SearchDocument, list[str]]:  # fmt: skip
    """Return the document of a search that ended with `chosen`, written for `output`, but for its seconds; and notes
    for a person that were not said yet.

    What reports is scored here; `directory` keeps those scores for a run that starts again.
    """
    scorer, ingredients = trials.scorer, trials.ingredients
    shared = list(_shared_images(live))
    notes = [note for _, note in shared]
    if mixtures := sum(d.ref is None for d in trials.decisions):
        notes.append(
            f"{mixtures} mixtures were compared on the images that select, and the best score of many is optimistic"
            + ("" if live.reporting else ": --report-task says what it is worth")
        )
    all_of_them = uniform(range(len(ingredients)))
    whole_trials = sum(1 for d in trials.decisions if len(d.soup) > 1 or d.action != "start")
    why = _why_alone(trials, live, chosen)
    document = SearchDocument(
        soupkit=__version__,
        strategy=trials.options.strategy,
        stopping=trials.options.stopping if scorer.metric is not None else "none",
        accept=trials.options.accept,
        ingredients=tuple(shown(measured.combined()) for measured in trials.alone),
        decisions=tuple(trials.decisions),
        selected=tuple(ingredients.refs[m] for m in chosen.members),
        weights=chosen.soup.weights,
        score=shown(trials.measured(chosen.soup).combined(), str(output), fingerprint),
        best_ingredient=shown(trials.alone[order[0]].combined()),
        uniform=shown(trials.measured(all_of_them).combined(), UNIFORM, None),
        images_scored=sum(m.scored for m in trials.alone) + sum(d.images_scored or 0 for d in trials.decisions),
        images_full=scorer.n * (sum(1 for m in trials.alone if m.scored) + whole_trials),
        optimistic=any(n for n, _ in shared),
        why=why,
        notes=(*doubts(trials, live), *notes),
        **_declared(trials.facts),
        report=tuple(_reported(trials, live, order, chosen, output, fingerprint, directory)),
        settings=settings,
    )
    return document, [*notes, *([why] if why else [])]


def _declared(facts: dict[str, Any]) -> dict[str, Any]:
    """Sort what a strategy stated into fields of the document and what it has no field for."""
    fields = {"groups", "correlations", "shapley"}
    return {
        **{name: value for name, value in facts.items() if name in fields},
        "facts": {name: value for name, value in facts.items() if name not in fields},
    }


def shown(score: Score, *named: str | None) -> SearchScore:
    """Return a score as the document holds it, under another name and fingerprint where they are given."""
    if named:
        score = replace(score, ref=str(named[0]), fingerprint=named[1])
    return SearchScore.model_validate(asdict(score))


def _shared_images(live: LiveSoups) -> Iterator[tuple[int, str]]:
    """Yield the counts of images that selecting and reporting tasks share, with a sentence each."""
    tasks = live.evaluator.tasks
    for r in range(len(live.selecting), len(tasks)):
        for s in range(len(live.selecting)):
            if n := live.evaluator.shared_images(s, r):
                one, other = (f"{tasks[i].name}:{tasks[i].split}" for i in (r, s))
                yield n, f"{one} shares {n} images with {other}, which selects: its score is optimistic"


def _why_alone(trials: SearchTrials, live: LiveSoups, chosen: ScoredSoup) -> str | None:
    """Say why the best soup is one ingredient; None where it is not."""
    if len(chosen.members) > 1:
        return None
    name = trials.ingredients.refs[chosen.members[0]]
    pairs: dict[tuple[str, ...], tuple[float, str]] = {}
    for d in trials.decisions:
        if len(d.soup) == 2:
            others = tuple(ref for ref in d.soup if ref != name)
            pairs[others] = max(pairs.get(others, (-2.0, "")), _outcome(d, trials.options.stopping))
    tried = [f"with {others[0]}" if len(others) == 1 else " with ".join(others) for others in pairs]
    outcomes = [f"{pair}: {text}" for pair, (_, text) in zip(tried, pairs.values(), strict=True)]
    distances = live.ranks.together(compare_weights, trials.ingredients.checkpoints, sample=True)
    far = max((p.distance for p in distances), default=0.0)
    near = min((p.distance for p in distances), default=0.0)
    if far >= 1:
        hint = (
            "they lie too far apart for an average to work: fine-tune them from one checkpoint, with smaller learning "
            "rates"
        )
    else:
        hint = (
            "more ingredients of like quality, fine-tuned from one checkpoint, or smaller learning rates could help, "
            "and so could --orders, --strategy swap, or more images to select on"
        )
    return (
        f"the best soup is {name} alone ({percent(trials.measured(chosen.soup).whole_value)}): no average with another "
        f"reached it ({'; '.join(outcomes) or 'no pair was tried'}). The ingredients' weights are {near:.2f} to "
        f"{far:.2f} apart, relative to their size; {hint}"
    )


def _outcome(d: Decision, stopping: str) -> tuple[float, str]:
    """Return what became of a trial, to be compared with others of the same members, and in words."""
    if d.value is not None:
        return d.value, percent(d.value)
    if stopping == "sequential":
        return -1.0, f"lower, on the evidence of {d.images:,} images"
    return -1.0, f"certain to be lower after {d.images:,} images"


def _reported(
    trials: SearchTrials, live: LiveSoups, order: Sequence[int], chosen: ScoredSoup, output: Path,
    fingerprint: str | None, directory: Path,
) -> Iterator[SearchScore]:  # fmt: skip
    """Yield the scores of the soup, the best ingredient and the uniform soup on the tasks that only report."""
    ingredients, best = trials.ingredients, uniform(order[:1])
    soups: list[tuple[Soup, str, str | None]] = [(chosen.soup, str(output), fingerprint)]
    if chosen.soup != best:
        soups.append((best, *live.named(best)))
    soups.append((uniform(range(len(ingredients))), UNIFORM, None))
    for t in range(len(live.selecting), len(live.evaluator.tasks)):
        for soup, *named in soups:
            path = directory / "scores" / f"report-{t}-{live.key(soup)}.json"
            yield shown(_report_score(live, t, soup, str(named[0]), path), *named)


def _report_score(live: LiveSoups, t: int, soup: Soup, ref: str, path: Path) -> Score:
    """Score `soup` on task number `t`, unless the file at `path` holds what it scored."""
    kept = live.ranks.lead(read_scores, path, 1)
    if kept is not None:
        return kept[0]
    task, evaluator, progress = live.evaluator.tasks[t], live.evaluator, live.progress
    live.fill(soup)
    progress.start(f"{ref} on {task.name}:{task.split}", len(evaluator.pixels[t].rows), "images")
    outcome = evaluator.run(t, [live.text_side(t)], None, progress)[0]
    progress.finish()
    score = score_of(outcome, task, ref, None)
    if live.ranks.leads:
        write_cached(path, json.dumps([asdict(score)]))
    return score
