"""The document of a search that is over: the scores that matter, how honest they are, and why one ingredient won."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from math import inf
from pathlib import Path
from typing import Any

from soupkit.checkpoint.lineage import compare_weights
from soupkit.evaluation.intervals import mcnemar
from soupkit.evaluation.outcomes import score_of
from soupkit.evaluation.task import Score
from soupkit.files import write_cached
from soupkit.ranks import Ranks
from soupkit.search.candidate import ScoredSoup, Soup, uniform
from soupkit.search.document import UNIFORM, Decision, Paired, ProxyAgreement, SearchDocument, SearchScore
from soupkit.search.live_soups import LiveSoups
from soupkit.search.measured import Measured, shown
from soupkit.search.names import SCORES
from soupkit.search.narration import in_words
from soupkit.search.pass_scorer import read_scores
from soupkit.search.trials import SearchTrials
from soupkit.version import __version__

_TELLING = 0.05  # half an interval beyond which a task says little about fine-tunes of one model


def doubts(trials: SearchTrials) -> list[str]:
    """Return what a person should know of the score that selects before the first trial."""
    said = []
    best = max(trials.alone, key=lambda measured: measured.whole_worth)
    if trials.scorer.counts == "images" and not trials.scorer.stops and trials.options.stopping != "none":
        metrics = ", ".join(dict.fromkeys(score.metric for score in best.scores))
        said.append(f"the score ({metrics}) is no sum of hits: every trial is a full pass")
    if (half := best.half_interval) is not None and half > _TELLING:
        said.append(
            f"{sum(score.n or 0 for score in best.scores)} images select: scores are known to +-{100 * half:.1f} "
            "points, too few to tell the ingredients apart"
        )
    return said


def describe(
    trials: SearchTrials, live: LiveSoups | None, order: Sequence[int], chosen: ScoredSoup, output: Path,
    fingerprint: str | None, *, directory: Path, settings: dict[str, Any], ranks: Ranks,
) -> tuple[SearchDocument, list[str]]:  # fmt: skip
    """Return the document of a search that ended with `chosen`, written for `output`, but for its seconds; and notes
    for a person that were not said yet.

    What reports is scored here; `directory` keeps those scores for a run that starts again.
    """
    scorer, ingredients = trials.scorer, trials.ingredients
    shared = list(_shared_images(live)) if live is not None else []
    notes = [note for _, note in shared]
    if mixtures := sum(d.ref is None for d in trials.decisions):
        notes.append(
            f"{mixtures} mixtures were compared on the {scorer.counts} that select, and the best score of many is "
            f"optimistic{'' if live is not None and live.reporting else ': --report-task says what it is worth'}"
        )
    if trials.gradient is not None:
        notes.append(
            f"the gradient saw the labels of all {trials.gradient.images:,} images that select: the score on them is "
            "that of images it learned from"
        )
    all_of_them = uniform(range(len(ingredients)))
    whole_trials = sum(1 for d in trials.decisions if len(d.soup) > 1 or d.action != "start")
    why = _why_alone(trials, ranks, chosen)
    best, soup = trials.measured(uniform(order[:1]), "the best ingredient"), trials.measured(chosen.soup)
    document = SearchDocument(
        soupkit=__version__,
        strategy=trials.options.strategy,
        stopping=trials.options.stopping if scorer.stops else "none",
        accept=trials.options.accept,
        ingredients=tuple(measured.combined() for measured in trials.alone),
        decisions=tuple(trials.decisions),
        selected=tuple(ingredients.refs[m] for m in chosen.members),
        weights=chosen.soup.weights,
        method=chosen.soup.method if chosen.soup.use is not None else None,
        parameters=chosen.soup.parameters if chosen.soup.use is not None else None,
        base=ingredients.base_ref if chosen.soup.has_base else None,
        score=_renamed(soup.combined(), str(output), fingerprint),
        best_ingredient=best.combined(),
        uniform=_renamed(trials.measured(all_of_them).combined(), UNIFORM, None),
        counts=scorer.counts,
        minimized=scorer.minimizes,
        images_scored=sum(m.scored for m in trials.alone) + sum(d.images_scored or 0 for d in trials.decisions),
        images_full=scorer.n * (sum(1 for m in trials.alone if m.scored) + whole_trials),
        proxy=_agreement(trials),
        paired=_paired(soup, best) if chosen.soup != uniform(order[:1]) else None,
        optimistic=any(n for n, _ in shared),
        why=why,
        notes=(*doubts(trials), *notes),
        **_declared(trials.facts),
        report=() if live is None else tuple(_reported(live, order, chosen.soup, output, fingerprint, directory)),
        settings=settings,
    )
    return document, [*notes, *([why] if why else [])]


def _agreement(trials: SearchTrials) -> ProxyAgreement | None:
    if trials.proxy is None:
        return None
    return ProxyAgreement.model_validate(trials.proxy.agreement(trials.options.settled["proxy"]))


def _declared(facts: dict[str, Any]) -> dict[str, Any]:
    """Sort what a strategy stated into fields of the document and what it has no field for."""
    fields = {"methods", "groups", "correlations", "shapley"}
    return {
        **{name: value for name, value in facts.items() if name in fields},
        "facts": {name: value for name, value in facts.items() if name not in fields},
    }


def _renamed(score: SearchScore, ref: str, fingerprint: str | None) -> SearchScore:
    """Return a score as that of something else: of a soup that now has a place, or of the uniform soup."""
    return score.model_copy(update={"ref": ref, "fingerprint": fingerprint})


def _paired(soup: Measured, best: Measured) -> Paired | None:
    """Compare the soup with the best ingredient image by image, where the hits of both are known."""
    if soup.hits is None or best.hits is None:
        return None
    only_soup, only_best = int((soup.hits & ~best.hits).sum()), int((best.hits & ~soup.hits).sum())
    return Paired(only_soup=only_soup, only_best_ingredient=only_best, p=mcnemar(soup.hits, best.hits))


def _shared_images(live: LiveSoups) -> Iterator[tuple[int, str]]:
    """Yield the counts of images that selecting and reporting tasks share, with a sentence each."""
    tasks = live.evaluator.tasks
    for r in range(len(live.selecting), len(tasks)):
        for s in range(len(live.selecting)):
            if n := live.evaluator.shared_images(s, r):
                one, other = (f"{tasks[i].name}:{tasks[i].split}" for i in (r, s))
                yield n, f"{one} shares {n} images with {other}, which selects: its score is optimistic"


def _why_alone(trials: SearchTrials, ranks: Ranks, chosen: ScoredSoup) -> str | None:
    """Say why the best soup is one ingredient; None where it is not."""
    if len(chosen.members) > 1 or chosen.soup.use is not None:
        return None
    name = trials.ingredients.refs[chosen.members[0]]
    pairs: dict[tuple[str, ...], tuple[float, str]] = {}
    for d in trials.decisions:
        if len(d.soup) == 2:
            others = tuple(ref for ref in d.soup if ref != name)
            pairs[others] = max(pairs.get(others, (-inf, "")), _outcome(d, trials))
    tried = [f"with {others[0]}" if len(others) == 1 else " with ".join(others) for others in pairs]
    outcomes = [f"{pair}: {text}" for pair, (_, text) in zip(tried, pairs.values(), strict=True)]
    distances = ranks.together(compare_weights, trials.ingredients.checkpoints, sample=True)
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
    value = in_words(trials.measured(chosen.soup).whole_value, trials.scorer.unit)
    return (
        f"the best soup is {name} alone ({value}): no average with another reached it "
        f"({'; '.join(outcomes) or 'no pair was tried'}). The ingredients' weights are {near:.2f} to "
        f"{far:.2f} apart, relative to their size; {hint}"
    )


def _outcome(d: Decision, trials: SearchTrials) -> tuple[float, str]:
    """Return what became of a trial, to be compared with others of the same members, and in words."""
    if d.value is not None:
        return d.value, in_words(d.value, trials.scorer.unit)
    if trials.options.stopping in ("sequential", "likely"):
        return -1.0, f"lower, on the evidence of {d.images:,} images"
    return -1.0, f"certain to be lower after {d.images:,} images"


def _reported(
    live: LiveSoups, order: Sequence[int], chosen: Soup, output: Path, fingerprint: str | None, directory: Path
) -> Iterator[SearchScore]:
    """Yield the scores of the soup, the best ingredient and the uniform soup on the tasks that only report."""
    best = uniform(order[:1])
    soups: list[tuple[Soup, str, str | None]] = [(chosen, str(output), fingerprint)]
    if chosen != best:
        soups.append((best, *live.named(best)))
    soups.append((uniform(range(len(live.ingredients))), UNIFORM, None))
    for t in range(len(live.selecting), len(live.evaluator.tasks)):
        for soup, ref, value in soups:
            path = directory / SCORES / f"report-{t}-{live.key(soup)}.json"
            yield _renamed(shown(_report_score(live, t, soup, ref, path)), ref, value)


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
