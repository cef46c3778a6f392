"""Whether a model's probabilities can be used: the accuracy of the images at each confidence, and what ECE says."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from soupkit.evaluation.task import Reliability
from soupkit.publishing.reports.figures import ReportFigure
from soupkit.publishing.reports.report_inputs import Results
from soupkit.publishing.reports.style import Style, canvas
from soupkit.publishing.short_names import fit_names, short_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_MODELS = 4  # curves in a picture: those of the soups first
_MOST_TASKS = 4
_COLUMNS = (("ece", "ECE"), ("nll", "NLL"), ("brier", "Brier"), ("temperature", "temperature"))


def calibration_figures(results: Results) -> list[ReportFigure]:
    """Return a figure for each task with models whose probabilities were asked for."""
    tasks = list(dict.fromkeys((r.task, r.split) for r in results.reliability))[:_MOST_TASKS]
    return [_figure(results, task, number) for number, task in enumerate(tasks, 1)]


def _figure(results: Results, task: tuple[str, str], number: int) -> ReportFigure:
    title = ":".join(filter(None, task))
    models = [r for r in results.reliability if (r.task, r.split) == task]
    models.sort(key=lambda r: results.role(r.ref) == "ingredient")
    names = short_names([r.ref for r in models])
    metrics = {s.ref: s.metrics or {} for s in results.scores if (s.task, s.split) == task}
    columns = [
        (key, name) for key, name in _COLUMNS if any(metrics.get(r.ref, {}).get(key) is not None for r in models)
    ]
    rows = []
    for model in models:
        values = [metrics.get(model.ref, {}).get(key) for key, _ in columns]
        rows.append((model.ref, *("" if value is None else f"{value:.4g}" for value in values)))
    drawn = models[:_MOST_MODELS]
    listed = "; ".join(f"{names[m.ref]} {_gap(m):.1f} points" for m in drawn)
    return ReportFigure(
        f"calibration-{number}", f"Calibration on {title}",
        "Images by the probability of their likeliest class, in equal parts: on the diagonal a model is right as often "
        "as it says.",
        f"Reliability diagram on {title}. Confidence and accuracy differ, in the mean over the images, by: {listed}.",
        lambda style: draw_reliability(drawn, names, style),
        ("model", *(name for _, name in columns)), tuple(rows),
    )  # fmt: skip


def _gap(model: Reliability) -> float:
    """Return the mean distance between confidence and accuracy over the images, in points."""
    images = sum(b.images for b in model.bins)
    return 100 * sum(b.images * abs(b.confidence - b.accuracy) for b in model.bins) / max(1, images)


def draw_reliability(models: Sequence[Reliability], names: dict[str, str], style: Style) -> "Figure":
    """Draw the accuracy of each bin over its mean confidence, a line per model, points as large as their share."""
    theme = style.theme
    labels = fit_names(
        [names[m.ref] for m in models], style.letters - 8 if style.narrow else style.letters // 2 - 6
    ).names
    labels = {ref: labels[name] for ref, name in names.items() if name in labels}
    looks = [*zip((theme.soup, theme.ingredient, theme.third, theme.fourth), "osD^", strict=True)]
    with canvas(style, 3.4 if style.narrow else 4.2) as (figure, axes):
        axes.plot([0, 100], [0, 100], color=theme.soft, lw=1, ls=(0, (4, 3)))
        for model, (colour, marker) in zip(models, looks, strict=False):
            bins = [b for b in model.bins if b.images]
            share = [b.images / sum(b.images for b in bins) for b in bins]
            x, y = [100 * b.confidence for b in bins], [100 * b.accuracy for b in bins]
            axes.plot(x, y, color=colour, lw=1.4)
            axes.scatter(x, y, s=[12 + 160 * s for s in share], color=colour, marker=marker, alpha=0.8)
            axes.plot([], [], color=colour, marker=marker, label=labels[model.ref])
        axes.set_xlim(0, 101)
        axes.set_ylim(0, 101)
        axes.set_xlabel("confidence, %")
        axes.set_ylabel("accuracy, %")
        axes.grid()
        figure.legend(loc="outside upper left", ncols=1 if style.narrow else 2)
        return figure
