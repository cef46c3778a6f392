"""The figures: a search in order, an interpolation, scores with intervals, the scatter, differences per task.

Each `draw_*` returns a matplotlib figure in a style; each `plot_*` saves one to a PNG, SVG or PDF by suffix.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soupkit.publishing.reports.style import Style, canvas, save
from soupkit.publishing.reports.units import factor, score_row, shown, sign
from soupkit.publishing.short_names import fit_names
from soupkit.search.document import SearchDocument, SearchScore, parse_search
from soupkit.search.interpolation_document import InterpolationDocument, parse_interpolation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEFAULT = Style()


@dataclass(frozen=True, slots=True)
class Point:
    """A model in the scatter; fractions. `role` is `ingredient`, `uniform`, `greedy` or `soup`."""

    name: str
    x: float
    y: float
    role: str = "ingredient"


def plot_search(document: SearchDocument | Mapping[str, Any], path: Path, *, style: Style = DEFAULT) -> None:
    """Draw a search.json to `path`. Raises DataError, UsageError for the suffix, StorageError."""
    search = document if isinstance(document, SearchDocument) else parse_search(document)
    save(draw_search(search, style), path)


def plot_interpolation(
    document: InterpolationDocument | Mapping[str, Any], path: Path, *, style: Style = DEFAULT
) -> None:
    """Draw an interpolation.json to `path`. Raises DataError, UsageError for the suffix, StorageError."""
    curve = document if isinstance(document, InterpolationDocument) else parse_interpolation(document)
    save(draw_interpolation(curve, style), path)


def plot_scores(scores: Sequence[Mapping[str, Any]], path: Path, *, style: Style = DEFAULT) -> None:
    """Draw the scores of several models on one task to `path`. Raises as `plot_search` does."""
    save(draw_scores([score_row(score, "scores") for score in scores], style), path)


def plot_scatter(points: Sequence[Point], path: Path, *, x: str, y: str, style: Style = DEFAULT) -> None:
    """Draw `points` to `path`, `x` and `y` naming the axes. Raises UsageError for the suffix, StorageError."""
    save(draw_scatter(points, x, y, style), path)


def plot_differences(
    differences: Mapping[str, float], path: Path, *, first: str, second: str, style: Style = DEFAULT
) -> None:
    """Draw `first` minus `second` per task (fractions) to `path`. Raises UsageError for the suffix, StorageError."""
    save(draw_differences(differences, first, second, style), path)


def draw_search(search: SearchDocument, style: Style) -> "Figure":
    """Draw each trial in order with its interval, the soup as it grows, the ingredients' range and the soup's interval.

    A trial that was rejected before all images were scored stands at its share of hits so far, or where that is not
    known at the foot.
    """
    theme, k = style.theme, factor(search.score)
    trials = [(d, d.shown) for d in search.decisions]
    with canvas(style, 3.2 if style.narrow else 3.4) as (figure, axes):
        values = [k * s.value for s in search.ingredients]
        axes.axhspan(min(values), max(values), color=theme.ingredient, alpha=0.14, lw=0, label="ingredients, range")
        axes.axhline(k * search.best_ingredient.value, color=theme.ingredient, lw=1, ls=(0, (5, 2)))
        last = max(d.n for d in search.decisions)
        for wanted, colour, marker, face in (
            ("accepted", theme.soup, "o", theme.soup),
            ("rejected", theme.soft, "X", theme.page),
        ):
            chosen = [(d, v) for d, v in trials if v is not None and d.decision == wanted]
            for d, _ in chosen:
                if d.low is not None and d.high is not None:
                    axes.vlines(d.n, k * d.low, k * d.high, color=colour, lw=1, alpha=0.7)
            if chosen:
                axes.plot(
                    [d.n for d, _ in chosen], [k * v for _, v in chosen], ls="none", marker=marker, color=colour,
                    markerfacecolor=face, ms=5.5 if style.narrow else 6.5, label=wanted, zorder=3,
                )  # fmt: skip
        unknown = [d.n for d, v in trials if v is None]
        if unknown:
            axes.plot(
                unknown, [0.02] * len(unknown), ls="none", marker="v", color=theme.soft, ms=5, label="rejected early",
                transform=axes.get_xaxis_transform(),
            )  # fmt: skip
        grown = [(d.n, k * v) for d, v in trials if v is not None and d.decision == "accepted"]
        if grown:
            steps = [*grown, (last, grown[-1][1])]
            axes.step([n for n, _ in steps], [v for _, v in steps], where="post", color=theme.soup, lw=1.4)
        _final(axes, search.score, last + 1, theme.soup)
        axes.set_xlim(min(d.n for d in search.decisions) - 0.6, last + 1.6)
        ticks = _whole_ticks([d.n for d in search.decisions], 6 if style.narrow else 14)
        axes.set_xticks([*(t for t in ticks if last + 1 - t > 0.05 * last + 0.5), last + 1])
        axes.set_xticklabels([*(str(t) for t in axes.get_xticks()[:-1].astype(int)), "soup"])
        axes.set_xlabel("trial")
        axes.set_ylabel(_fitted(f"{search.score.task_and_split}{sign(search.score)}", 30))
        axes.grid(axis="y")
        figure.legend(loc="outside upper left", ncols=2 if style.narrow else 5)
        return figure


def _final(axes: Any, score: SearchScore, x: float, colour: str) -> None:
    """Mark the chosen soup with its interval as a diamond at `x`."""
    k = factor(score)
    value = k * score.value
    if score.low is not None and score.high is not None:
        below, above = max(0.0, value - k * score.low), max(0.0, k * score.high - value)  # a value may lie outside
        axes.errorbar(x, value, [[below], [above]], color=colour, capsize=3, lw=1.4)
    axes.plot(x, value, marker="D", ls="none", color=colour, ms=7, label="soup, 95 %", zorder=4)


def _whole_ticks(numbers: Sequence[int], most: int) -> list[int]:
    """Return at most about `most` of the trials' numbers, evenly spread from the first."""
    ordered = sorted(set(numbers))
    return ordered[:: max(1, -(-len(ordered) // most))]


def draw_interpolation(document: InterpolationDocument, style: Style) -> "Figure":
    """Draw a curve per task over alpha with its 95 % band, and mark the best alpha."""
    theme = style.theme
    curves: dict[str, list[tuple[float, SearchScore]]] = {}
    for point in sorted(document.points, key=lambda p: p.alpha):
        for score in point.scores:
            curves.setdefault(score.task_and_split, []).append((point.alpha, score))
    colours = (theme.soup, theme.ingredient, theme.third, theme.fourth)
    names = fit_names(list(curves), style.letters - 6 if style.narrow else style.letters // 3 - 5).names
    looks = [(colours[i % 4], "osD^v"[i % 5], ("-", "--", "-.", ":")[i // 4 % 4]) for i in range(len(curves))]
    with canvas(style, 3.0 if style.narrow else 3.2) as (figure, axes):
        for (name, curve), (colour, marker, dash) in zip(curves.items(), looks, strict=True):
            alphas = [a for a, _ in curve]
            bounds = [(a, 100 * s.low, 100 * s.high) for a, s in curve if s.low is not None and s.high is not None]
            if bounds:
                axes.fill_between(*zip(*bounds, strict=True), color=colour, alpha=0.15, lw=0)
            axes.plot(
                alphas, [100 * s.value for _, s in curve], dash, marker=marker, color=colour, ms=5, label=names[name]
            )
        if document.best_alpha is not None:
            axes.axvline(document.best_alpha, color=theme.soft, lw=1, ls=(0, (2, 2)), label="best alpha")
        axes.set_xlabel("alpha (0: base, 1: fine-tuned)")
        axes.set_ylabel("score, %")
        axes.grid(axis="y")
        figure.legend(loc="outside upper left", ncols=1 if style.narrow else 3)
        return figure


def draw_scores(scores: Sequence[SearchScore], style: Style, soups: frozenset[str] | None = None) -> "Figure":
    """Draw one task: a model a row, its score with its interval; soups as diamonds in their own colour.

    `soups` are the references of soups; None takes those whose name ends in `soup`.
    """
    theme, names = style.theme, fit_names([s.ref for s in scores], style.letters * 2 // 5).names
    with canvas(style, 0.9 + (0.34 if style.narrow else 0.4) * len(scores)) as (figure, axes):
        for y, score in enumerate(reversed(scores)):
            soup = score.ref.endswith("soup") if soups is None else score.ref in soups
            colour = theme.soup if soup else theme.ingredient
            k = factor(score)
            value = k * score.value
            if score.low is not None and score.high is not None:
                axes.hlines(y, k * score.low, k * score.high, color=colour, lw=2, alpha=0.65)
            axes.plot(value, y, marker="D" if soup else "o", color=colour, ms=7)
            written = f"{value:.1f}" if score.unit == "fraction" else shown(value, score)
            axes.annotate(
                written, (value, y), xytext=(0, 5), textcoords="offset points", ha="center", va="bottom",
                color=colour, fontsize="small",
            )  # fmt: skip
        axes.set_yticks(range(len(scores)), [names[s.ref] for s in reversed(scores)])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_ylim(-0.6, len(scores) - 0.35)
        first = scores[0]
        counted = f", n = {first.n:,}" if first.n else ""
        with_intervals = ", 95 % intervals" if first.low is not None else ""
        named = _fitted(first.task_and_split, style.letters - len(counted) - 3)
        gap = "\n" if style.narrow else ""
        figure.supxlabel(f"{named}{counted}{sign(first)}{gap}{with_intervals}".replace("\n, ", "\n"), fontsize="medium")
        axes.grid(axis="x")
        return figure


_ROLES = {
    "ingredient": ("models", "o"),
    "uniform": ("uniform soup", "s"),
    "greedy": ("greedy soup", "*"),
    "soup": ("soup", "D"),
}


def draw_scatter(points: Sequence[Point], x: str, y: str, style: Style) -> "Figure":
    """Draw models by two scores in percent, soups over ingredients, as figure 1 of Wortsman et al. 2022 does."""
    theme = style.theme
    colours = {"ingredient": theme.ingredient, "uniform": theme.third, "greedy": theme.soup, "soup": theme.fourth}
    with canvas(style, 3.4 if style.narrow else 4.4) as (figure, axes):
        for role, (label, marker) in _ROLES.items():
            chosen = [p for p in points if p.role == role]
            if not chosen:
                continue
            plain = role == "ingredient"
            axes.plot(
                [100 * p.x for p in chosen], [100 * p.y for p in chosen], ls="none", marker=marker, color=colours[role],
                alpha=0.55 if plain else 1, ms=6 if plain else 15 if role == "greedy" else 10,
                markeredgecolor=theme.page, markeredgewidth=0.6, label=f"{label} ({len(chosen)})" if plain else label,
                zorder=2 if plain else 3,
            )  # fmt: skip
        axes.set_xlabel(_fitted(f"{x}, %", style.letters * 4 // 5))
        axes.set_ylabel(_fitted(f"{y}, %", 34))
        axes.grid()
        figure.legend(loc="outside upper left", ncols=2 if style.narrow else 4)
        return figure


def draw_differences(differences: Mapping[str, float], first: str, second: str, style: Style) -> "Figure":
    """Draw `first` minus `second` per task in points as bars, the largest gain first."""
    theme = style.theme
    ordered = sorted(differences.items(), key=lambda item: (item[1], item[0]))
    with canvas(style, 1.2 + (0.17 if style.narrow else 0.19) * len(ordered)) as (figure, axes):
        values = [100 * v for _, v in ordered]
        colours = [theme.soup if v >= 0 else theme.ingredient for v in values]
        axes.barh(range(len(ordered)), values, color=colours, height=0.72)
        axes.axvline(0, color=theme.soft, lw=0.8)
        for i, v in enumerate(values):
            axes.annotate(
                f"{v:+.1f}", (v, i), xytext=(3 if v >= 0 else -3, 0), textcoords="offset points", va="center",
                ha="left" if v >= 0 else "right", fontsize="x-small", color=theme.soft,
            )  # fmt: skip
        names = fit_names([name for name, _ in ordered], style.letters * 2 // 5).names
        axes.set_yticks(range(len(ordered)), [names[name] for name, _ in ordered], fontsize="small")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.12)
        axes.set_ylim(-0.7, len(ordered) - 0.3)
        figure.supxlabel("difference, percentage points", fontsize="medium")
        axes.grid(axis="x")
        gap, room = ("\n", style.letters - 10) if style.narrow else (" ", style.letters // 2 - 6)
        models = fit_names([first, second], room).names
        figure.suptitle(f"{models[first]}{gap}minus {models[second]}", x=0.01, ha="left", fontsize="medium")
        return figure


def _fitted(text: str, letters: int) -> str:
    """Return `text` without its middle, where it has more than so many letters."""
    return fit_names([text], letters).names[text]
