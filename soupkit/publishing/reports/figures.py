"""The figures of a report, each with its caption, its alternative text and the numbers behind it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from soupkit.publishing.reports import plots
from soupkit.publishing.reports.report_inputs import Results
from soupkit.publishing.reports.selection import differences, find_model, is_shift, models, scatter_points, task_names
from soupkit.publishing.reports.style import Style
from soupkit.publishing.reports.units import interval, percent, shown, sign
from soupkit.publishing.short_names import short_names
from soupkit.search.document import SearchDocument, SearchScore
from soupkit.search.interpolation_document import InterpolationDocument
from soupkit.text import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_ROWS = 24  # models that a figure of scores can show and still be read
_MOST_SCORE_FIGURES = 3


@dataclass(frozen=True, slots=True)
class ReportFigure:
    """`key` names its PNG; `head` and `rows` are the table behind it."""

    key: str
    title: str
    caption: str
    alt: str
    draw: Callable[[Style], "Figure"]
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def report_figures(results: Results, held_out: str | None, difference: Sequence[str]) -> list[ReportFigure]:
    """Return the figures that the results allow. `difference` names two models, or is empty: then two are compared
    where there are only two. Raises UsageError for names that are not there."""
    figures = _score_figures(results)
    figures += _scatter(results, held_out)
    pair = [find_model(results, name) for name in difference]
    if not pair and len(models(results)) == 2 and len(task_names(results)) > 1:
        pair = models(results)[::-1]
    if pair:
        figures.append(_difference(results, pair[0], pair[1]))
    numbered = len(results.searches) > 1
    figures += [_search(s, f"-{i}" if numbered else "") for i, (_, s) in enumerate(results.searches, 1)]
    numbered = len(results.interpolations) > 1
    figures += [_interpolation(d, f"-{i}" if numbered else "") for i, (_, d) in enumerate(results.interpolations, 1)]
    return figures


def _score_figures(results: Results) -> list[ReportFigure]:
    figures = []
    for task in task_names(results):
        scores = [s for s in results.scores if s.task_and_split == task and s.low is not None]
        if 2 <= len(scores) <= _MOST_ROWS:
            figures.append(_scores(results, task, scores))
    figures = figures[:_MOST_SCORE_FIGURES]
    if len(figures) == 1:
        return figures
    return [
        ReportFigure(f"{f.key}-{i}", f.title, f.caption, f.alt, f.draw, f.head, f.rows)
        for i, f in enumerate(figures, 1)
    ]


def _scores(results: Results, task: str, scores: list[SearchScore]) -> ReportFigure:
    names = short_names([s.ref for s in scores])
    soups = frozenset(s.ref for s in scores if results.role(s.ref) != "ingredient")
    best = max(scores, key=lambda s: s.value)
    listed = "; ".join(f"{names[s.ref]} {shown(s.value, s)} ({interval(s)})" for s in scores)
    return ReportFigure(
        "scores", f"Scores on {task}",
        "A row per model, with its 95 % interval; soups are diamonds.",
        f"Scores on {task}{sign(best)}, with intervals: {listed}. The highest is {names[best.ref]}.",
        lambda style: plots.draw_scores(scores, style, soups),
        ("model", f"score{sign(best)}", "95 % interval", "n"),
        tuple((s.ref, shown(s.value, s), interval(s), f"{s.n:,}" if s.n else "") for s in scores),
    )  # fmt: skip


def _scatter(results: Results, held_out: str | None) -> list[ReportFigure]:
    points, across, up = scatter_points(results, held_out)
    if not points:
        return []
    kind = "shifts" if all(map(is_shift, up)) else "other tasks"
    label = f"mean of {len(up)} {kind}" if len(up) > 1 else up[0]
    soups = [f"{p.name} at {percent(p.x)} and {percent(p.y)}" for p in points if p.role != "ingredient"]
    x_low, x_high = (percent(f(p.x for p in points)) for f in (min, max))
    y_low, y_high = (percent(f(p.y for p in points)) for f in (min, max))
    alt = (
        f"Scatter of {len(points)} models, {across} from {x_low} to {x_high} % across and {label} from {y_low} to "
        f"{y_high} % up." + (f" Soups: {'; '.join(soups)}." if soups else "")
    )
    return [
        ReportFigure(
            "scatter", f"{across} against {f'the {label}' if len(up) > 1 else label}",
            f"Up: the mean over {', '.join(up)}. A model with fewer scores is left out.",
            alt, lambda style: plots.draw_scatter(points, across, label, style),
            ("model", across, label),
            tuple((p.name, percent(p.x), percent(p.y)) for p in sorted(points, key=lambda p: -p.x)),
        )
    ]  # fmt: skip


def _difference(results: Results, first: str, second: str) -> ReportFigure:
    by_task = differences(results, first, second)
    ordered = sorted(by_task.items(), key=lambda item: -item[1])
    (top, gain), (bottom, loss) = ordered[0], ordered[-1]
    better = sum(v > 0 for v in by_task.values())
    return ReportFigure(
        "differences", f"{first} against {second}",
        f"Positive: {first} is better. It is on {better} of {len(by_task)} tasks; the mean difference is "
        f"{100 * sum(by_task.values()) / len(by_task):+.2f} points.",
        f"Bars of the difference per task in percentage points, sorted, from {100 * gain:+.2f} on {top} to "
        f"{100 * loss:+.2f} on {bottom}; {better} of {len(by_task)} are positive.",
        lambda style: plots.draw_differences(by_task, first, second, style),
        ("task", "difference, points"), tuple((task, f"{100 * v:+.2f}") for task, v in ordered),
    )  # fmt: skip


def _search(search: SearchDocument, suffix: str) -> ReportFigure:
    kept = len(search.selected)
    trials = [d for d in search.decisions if d.action != "start"]
    caption = (
        f"{search.strategy.capitalize()} search on {search.score.task_and_split}: {kept} of {len(search.ingredients)} "
        f"ingredients kept in {counted(len(trials), 'trial')}. The dashed line is the best ingredient."
    )
    if search.images_scored is not None and search.images_full:
        caption += f" {search.images_scored:,} images were scored of the {search.images_full:,} of a full search."
    if search.optimistic:
        caption += " The reported scores are optimistic: they share images with those that selected."
    if search.why:
        caption += f" {search.why[0].upper()}{search.why[1:].rstrip('.')}."
    alt = (
        f"The search in order. The soup reaches {shown(search.score.value, search.score)} on "
        f"{search.score.task_and_split}{sign(search.score)}, the best ingredient "
        f"{shown(search.best_ingredient.value, search.score)}. "
        f"{sum(d.decision == 'accepted' for d in trials)} of {len(trials)} trials were accepted."
    )
    return ReportFigure(
        f"search{suffix}", "The search, trial by trial", caption, alt, lambda style: plots.draw_search(search, style),
        ("trial", "action", "ingredient", f"score{sign(search.score)}", "images", "decision"),
        tuple(
            (str(d.n), d.action, d.ref or "", shown(d.shown, search.score), f"{d.images_scored or 0:,}", d.decision)
            for d in search.decisions
        ),
    )  # fmt: skip


def _interpolation(document: InterpolationDocument, suffix: str) -> ReportFigure:
    points = sorted(document.points, key=lambda p: p.alpha)
    names = list(dict.fromkeys(s.task_and_split for p in points for s in p.scores))
    ends = []
    for name in names:
        curve = [(p.alpha, s.value) for p in points for s in p.scores if s.task_and_split == name]
        alpha, top = max(curve, key=lambda c: c[1])
        ends.append(
            f"{name} goes from {percent(curve[0][1])} % to {percent(curve[-1][1])} %, at most {percent(top)} % at "
            f"alpha {alpha:g}"
        )
    rows = []
    for point in points:
        values = {s.task_and_split: s for s in point.scores}
        rows.append((f"{point.alpha:g}", *(percent(values[n].value) if n in values else "" for n in names)))
    best = f" Best: alpha {document.best_alpha:g}." if document.best_alpha is not None else ""
    return ReportFigure(
        f"interpolation{suffix}", "Between the base and the fine-tuned model",
        f"Weights on the line from {document.base} (alpha 0) to {' and '.join(document.refs) or 'the model'} "
        f"(alpha 1), with 95 % intervals.{best}",
        "Interpolation curve. " + "; ".join(ends) + ".", lambda style: plots.draw_interpolation(document, style),
        ("alpha", *names), tuple(rows),
    )  # fmt: skip
