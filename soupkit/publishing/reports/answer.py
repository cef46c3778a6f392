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
    yield f"{search.score.ref} is the soup: {kept} of {all_of} ingredients, chosen by {search.strategy}."
    for verdict in verdicts(search, results):
        yield _sentence(verdict)
    if search.images_scored is not None and search.images_full:
        share = search.images_scored / search.images_full
        seconds = f" and {search.seconds:,.0f} seconds" if search.seconds else ""
        yield f"It cost {search.images_scored:,} scored images ({100 * share:.0f} % of a full search){seconds}."
    elif search.seconds:
        yield f"It cost {search.seconds:,.0f} seconds."


def verdicts(search: SearchDocument, results: Results) -> list[Verdict]:
    """Return the soup against its best ingredient: on what chose it, and on all else that both were scored on."""
    soup, best = search.score.ref, search.best_ingredient.ref
    found = [Verdict(search.score, search.best_ingredient, _p(results, soup, best, search.score), True)]
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
    soup, best = verdict.soup, verdict.best
    unit = " points" if soup.unit == "fraction" else ""
    percent = " %" if soup.unit == "fraction" else ""
    subject = f"{soup.ref} reaches" if named else "It reaches"
    chosen = ", which chose it," if verdict.chosen else ""
    return (
        f"{subject} {shown(soup.value, soup)}{percent} on {soup.task_and_split}{chosen}: {verdict.gain:+.3g}{unit} "
        f"from {best.ref}{_significance(verdict)}."
    )


def _significance(verdict: Verdict) -> str:
    """Say whether the difference may be chance, and by what it is known."""
    if verdict.soup.ref == verdict.best.ref or verdict.soup.value == verdict.best.value:
        return ""
    if verdict.p is not None:
        words = "which is significant" if verdict.p < _CHANCE else "which may be chance"
        return f", {words} (McNemar’s exact test, p = {verdict.p:.2g})"
    low, high = verdict.soup.low, verdict.best.high
    if low is None or high is None:
        return ""
    if low > high:
        return ", more than both intervals allow for"
    return "; the two were not compared image by image, and their intervals overlap"


def _p(results: Results, first: str, second: str, score: SearchScore) -> float | None:
    pair = next((p for p in results.pairs if _is_of(p, first, second, score)), None)
    return pair.p if pair is not None else None


def _is_of(pair: Pair, first: str, second: str, score: SearchScore) -> bool:
    return {pair.first, pair.second} == {first, second} and (pair.task, pair.split) == (score.task, score.split)


def ingredient_rows(search: SearchDocument) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the head and the rows of the table of a search's ingredients: the score of each alone, its weight in the
    soup, what the score gained when it was added, and its Shapley share where it is known."""
    score = search.score
    unit = sign(score).removeprefix(", ")
    shares = {s.ref: s.share for s in search.shapley.shares} if search.shapley is not None else {}
    gains = _gains(search)
    head = ["ingredient", f"alone, {unit}".removesuffix(", "), "weight", "added"]
    head += ["Shapley share"] if shares else []
    rows = []
    for one in sorted(search.ingredients, key=lambda s: -s.value):
        row = [one.ref, shown(one.value, one), _weight(search, one.ref)]
        row.append(f"{factor(score) * gains[one.ref]:+.3g}" if one.ref in gains else "")
        if shares:
            row.append(f"{factor(score) * shares[one.ref]:+.3g}" if one.ref in shares else "")
        rows.append(tuple(row))
    return tuple(head), rows


def _weight(search: SearchDocument, ref: str) -> str:
    if ref not in search.selected:
        return "left out"
    if search.weights is None:
        return f"{1 / len(search.selected):.4g}"
    if isinstance(search.weights, dict):
        return "by block"
    return f"{search.weights[search.selected.index(ref)]:.4g}"


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
