"""What a soup gains and loses class by class, against the best of the models that are no soups."""

from soupkit.evaluation.task import ClassHits
from soupkit.publishing.reports import plots
from soupkit.publishing.reports.figures import ReportFigure
from soupkit.publishing.reports.report_inputs import Results
from soupkit.publishing.short_names import short_names

_MOST_BARS = 24  # classes in a picture: half of them the largest gains, half the largest losses
_MOST_TASKS = 6


def class_figures(results: Results) -> list[ReportFigure]:
    """Return a figure for each task on which a soup and another model were counted by class."""
    figures: list[ReportFigure] = []
    for task in list(dict.fromkeys((c.task, c.split) for c in results.classes)):
        counted = [c for c in results.classes if (c.task, c.split) == task]
        soups, others = (
            [c for c in counted if (results.role(c.ref) == "ingredient") is plain] for plain in (False, True)
        )
        if soups and others:
            best, other = (max(of, key=_accuracy) for of in (soups, others))
            if _shares(best).keys() & _shares(other).keys():
                figures.append(_figure(best, other, len(figures) + 1))
    return figures[:_MOST_TASKS]


def _accuracy(counts: ClassHits) -> float:
    return sum(counts.right) / max(1, sum(counts.images))


def _shares(counts: ClassHits) -> dict[str, float]:
    """Return which share of each class's images is right, for the classes that have images."""
    each = zip(counts.classes, counts.images, counts.right, strict=True)
    return {name: right / images for name, images, right in each if images}


def _figure(soup: ClassHits, other: ClassHits, number: int) -> ReportFigure:
    task = f"{soup.task}:{soup.split}" if soup.split else soup.task
    names = short_names([soup.ref, other.ref])
    shares, before = _shares(soup), _shares(other)
    gains = {name: share - before[name] for name, share in shares.items() if name in before}
    images = dict(zip(soup.classes, soup.images, strict=True))
    ordered = sorted(gains, key=lambda name: -gains[name])
    half = _MOST_BARS // 2
    drawn = {n: gains[n] for n in (ordered if len(ordered) <= _MOST_BARS else [*ordered[:half], *ordered[-half:]])}
    better, worse = (sum(sign * g > 0 for g in gains.values()) for sign in (1, -1))
    some = f" Drawn are the {half} largest gains and the {half} largest losses." if len(drawn) < len(gains) else ""
    first, last = ordered[0], ordered[-1]
    said = (
        f"{names[soup.ref]} is better than {names[other.ref]} on {better} of {len(gains)} classes and worse on {worse}."
    )
    return ReportFigure(
        f"classes-{number}", f"Gains and losses by class on {task}", said + some,
        f"Bars of the difference per class on {task} in percentage points, from {100 * gains[first]:+.1f} on {first} "
        f"to {100 * gains[last]:+.1f} on {last}. {said}",
        lambda style: plots.draw_differences(drawn, names[soup.ref], names[other.ref], style),
        ("class", "images", f"{names[other.ref]}, %", f"{names[soup.ref]}, %", "difference, points"),
        tuple(
            (
                name, f"{images[name]:,}", f"{100 * before[name]:.1f}", f"{100 * shares[name]:.1f}",
                f"{100 * gains[name]:+.1f}",
            )
            for name in ordered
        ),
    )  # fmt: skip
