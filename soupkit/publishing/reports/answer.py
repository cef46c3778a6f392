"""What a report begins with: which soup, how much better than its best ingredient, whether that may be chance, and what
it cost; then what it is made of, and what each ingredient adds."""

from collections.abc import Iterator
from dataclasses import dataclass

from soupkit.evaluation.task import Pair
from soupkit.publishing.reports.report_inputs import Results
from soupkit.publishing.reports.units import factor, shown, sign
from soupkit.search.document import SearchDocument, SearchScore

_CHANCE = 0.05  # p below which a difference is called significant
_MOST_TASKS = 4


@dataclass(frozen=True, slots=True)
class Verdict:
    """One task: the scores of the soup and of its best ingredient, and McNemar's p where they were compared image by
    image. `chosen` says that the soup was chosen on this task, whose score then flatters it."""

    soup: SearchScore
    best: SearchScore
    p: float | None
    chosen: bool

    @property
    def gain(self) -> float:
        """Points, or units of the score."""
        return factor(self.soup) * (self.soup.value - self.best.value)


def answers(results: Results) -> list[str]:
    """Return the sentences that answer; none where nothing was made or measured that a report could be about."""
    sentences: list[str] = []
    for _, search in results.searches:
        sentences += _of_a_search(search, results)
    if not sentences:
        sentences += _of_scores(results)
    return sentences


def _of_a_search(search: SearchDocument, results: Results) -> Iterator[str]:
    kept, all_of = len(search.selected), len(search.ingredients)
    yield f"{search.score.ref} is the soup: {kept} of {all_of} ingredients, chosen by the {search.strategy} search."
    for verdict in verdicts(search, results):
        yield _sentence(verdict)
    if search.images_scored is not None and search.images_full:
        share = search.images_scored / search.images_full
        yield (
            f"The search took {search.images_scored:,} {search.counts}, {100 * share:.0f} % of a full one"
            f"{_seconds(search)}."
        )
    elif search.seconds:
        yield f"The search is done{_seconds(search)}."


def _seconds(search: SearchDocument) -> str:
    return f", in {search.seconds:,.0f} s" if search.seconds else ""


def verdicts(search: SearchDocument, results: Results) -> list[Verdict]:
    """Return the soup against its best ingredient: on what chose it, and on all else that both were scored on."""
    soup, best = search.score.ref, search.best_ingredient.ref
    p = search.paired.p if search.paired is not None else _p(results, soup, best, search.score)
    found = [Verdict(search.score, search.best_ingredient, p, True)]
    of = {(s.ref, s.task_and_split): s for s in [*search.report, *results.scores]}
    for (ref, task), score in of.items():
        other = of.get((best, task))
        if ref == soup and other is not None and task != search.score.task_and_split:
            found.append(Verdict(score, other, _p(results, soup, best, score), False))
    return found[: _MOST_TASKS + 1]


def _of_scores(results: Results) -> Iterator[str]:
    """Compare the best soup with the best of the others, task by task."""
    for task in list(dict.fromkeys(s.task_and_split for s in results.scores))[:_MOST_TASKS]:
        scores = [s for s in results.scores if s.task_and_split == task]
        soups = [s for s in scores if results.role(s.ref) != "ingredient"]
        others = [s for s in scores if results.role(s.ref) == "ingredient"]
        if soups and others:
            soup, best = (max(of, key=lambda s: s.value) for of in (soups, others))
            yield _sentence(Verdict(soup, best, _p(results, soup.ref, best.ref, soup), False), named=True)


def _sentence(verdict: Verdict, *, named: bool = False) -> str:
    soup = verdict.soup
    unit = " points" if soup.unit == "fraction" else ""
    percent = " %" if soup.unit == "fraction" else ""
    subject = f"{soup.ref} reaches" if named else "It reaches"
    chosen = " (which chose it, and flatters it)" if verdict.chosen else ""
    return (
        f"{subject} {shown(soup.value, soup)}{percent} on {soup.task_and_split}{chosen}, {_compared(verdict, unit)}"
        f"{_significance(verdict)}."
    )


def _compared(verdict: Verdict, unit: str) -> str:
    """Say how the soup stands to the best ingredient."""
    if verdict.soup.ref == verdict.best.ref:
        return "and is the best ingredient itself"
    if verdict.soup.value == verdict.best.value:
        return f"as much as {verdict.best.ref} does, the best ingredient"
    above = "above" if verdict.gain > 0 else "below"
    return f"{abs(verdict.gain):.3g}{unit} {above} {verdict.best.ref}, the best ingredient"


def _significance(verdict: Verdict) -> str:
    """Say whether the difference may be chance, and by what it is known."""
    if verdict.soup.ref == verdict.best.ref or verdict.soup.value == verdict.best.value:
        return ""
    if verdict.p is not None:
        words = "this is significant" if verdict.p < _CHANCE else "this may be chance"
        return f"; {words} (McNemar’s exact test, p = {verdict.p:.2g})"
    low, high = verdict.soup.low, verdict.best.high
    if low is None or high is None:
        return ""
    if low > high:
        return "; this is more than their intervals allow for"
    return "; the two were not compared image by image, and their intervals overlap"


def _p(results: Results, first: str, second: str, score: SearchScore) -> float | None:
    pair = next((p for p in results.pairs if _is_of(p, first, second, score)), None)
    return pair.p if pair is not None else None


def _is_of(pair: Pair, first: str, second: str, score: SearchScore) -> bool:
    return {pair.first, pair.second} == {first, second} and (pair.task, pair.split) == (score.task, score.split)


def ingredient_rows(search: SearchDocument) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the head and the rows of the table of a search's ingredients: the score of each alone, its weight in the
    soup, and what it adds, as far as the trials tell: when it joined, beside all others of the soup (leave one out),
    and on average over all orders of joining (its Shapley share)."""
    shares = {s.ref: s.share for s in search.shapley.shares} if search.shapley is not None else {}
    added = {"when it joined": _gains(search), "leave one out": _left_out(search), "Shapley share": shares}
    added = {name: of for name, of in added.items() if of}
    k = factor(search.score)
    rows = [
        (
            one.ref, shown(one.value, one), _weight(search, one.ref),
            *(f"{k * of[one.ref]:+.3g}" if one.ref in of else "" for of in added.values()),
        )
        for one in sorted(search.ingredients, key=lambda s: -s.value)
    ]  # fmt: skip
    return ("ingredient", f"alone{sign(search.score)}", "weight", *added), rows


def _weight(search: SearchDocument, ref: str) -> str:
    if ref not in search.selected:
        return "left out"
    if search.weights is None:
        return f"{1 / len(search.selected):.4g}"
    if isinstance(search.weights, dict):
        return "by block"
    return f"{search.weights[search.selected.index(ref)]:.4g}"


def _left_out(search: SearchDocument) -> dict[str, float]:
    """Return by how much the soup is better than without a member, for those whose soup without it was scored whole."""
    equal = search.weights is None or (isinstance(search.weights, list) and len(set(search.weights)) == 1)
    if not equal or search.method is not None:
        return {}
    means = {frozenset(d.soup): d.value for d in search.decisions if d.weights is None and d.method is None}
    means |= {frozenset([one.ref]): one.value for one in search.ingredients}
    without = {ref: means.get(frozenset(search.selected) - {ref}) for ref in search.selected}
    return {ref: search.score.value - value for ref, value in without.items() if value is not None}


def _gains(search: SearchDocument) -> dict[str, float]:
    """Return what the score gained by each accepted trial that is about one ingredient."""
    gains: dict[str, float] = {}
    before: float | None = None
    for decision in search.decisions:
        if not decision.accepted or decision.value is None:
            continue
        if before is not None and decision.ref is not None and decision.ref in search.selected:
            gains[decision.ref] = decision.value - before
        before = decision.value
    return gains
