"""The figures show what the documents say, the same bytes each time, and in colours that can be told apart."""

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from soupkit.errors import DataError, StorageError, UsageError
from soupkit.evaluation.task import Bin, Reliability
from soupkit.publishing import plot_interpolation, plot_scores, plot_search
from soupkit.publishing.reports.plots import (
    Point,
    draw_differences,
    draw_interpolation,
    draw_scatter,
    draw_scores,
    draw_search,
)
from soupkit.publishing.reports.reliability import draw_reliability
from soupkit.publishing.reports.style import DARK, LIGHT, Style, Theme
from soupkit.search.document import SearchDocument, SearchScore
from soupkit.search.interpolation_document import InterpolationDocument
from tests.publishing.conftest import score


def read(row: dict[str, Any]) -> SearchScore:
    return SearchScore.model_validate(row)


def line(figure: Any, label: str) -> list[tuple[float, float]]:
    found = next(drawn for drawn in figure.axes[0].lines if drawn.get_label() == label)
    return [(float(x), round(float(y), 6)) for x, y in zip(*found.get_data(), strict=True)]


def test_a_search_is_drawn_trial_by_trial(search: dict[str, Any]) -> None:
    figure = draw_search(SearchDocument.model_validate(search), Style())
    assert line(figure, "accepted") == [(0, 91.0), (1, 92.0), (2, 92.5)]
    assert line(figure, "rejected") == [(3, 91.5), (4, 85.0), (5, 90.5)]  # the fifth by its 170 hits of 200
    assert line(figure, "soup, 95 %") == [(6, 92.5)]
    band = next(p for p in figure.axes[0].patches if p.get_label() == "ingredients, range")
    low, high = band.get_y(), band.get_y() + band.get_height()
    assert (round(low, 6), round(high, 6)) == (84.0, 91.0)


def test_a_trial_of_which_nothing_is_known_stands_at_the_foot(search: dict[str, Any]) -> None:
    search["decisions"][4] |= {"hits": None}
    figure = draw_search(SearchDocument.model_validate(search), Style())
    assert len(line(figure, "rejected")) == 2 and line(figure, "rejected early") == [(4, 0.02)]


def test_an_interpolation_is_a_curve_per_task(interpolation: dict[str, Any]) -> None:
    interpolation["points"].reverse()
    figure = draw_interpolation(InterpolationDocument.model_validate(interpolation), Style())
    assert line(figure, "digits:val")[:2] == [(0.0, 80.0), (0.25, 86.0)]
    assert line(figure, "noise:test")[-1] == (1.0, 60.0)
    assert {x for x, _ in line(figure, "best alpha")} == {0.75}


def test_differences_are_sorted_with_the_largest_gain_at_the_top() -> None:
    figure = draw_differences({"a": -0.1, "b": 0.3, "c": 0.05}, "one", "other", Style())
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "c", "b"]
    assert [round(bar.get_width(), 6) for bar in figure.axes[0].patches] == [-10, 5, 30]


def test_soups_have_marks_of_their_own_in_the_scatter() -> None:
    points = [Point("a", 0.7, 0.4), Point("u", 0.72, 0.45, "uniform"), Point("g", 0.75, 0.46, "greedy")]
    drawn = draw_scatter(points, "x", "y", Style()).axes[0].lines
    assert len({mark.get_marker() for mark in drawn}) == len({mark.get_color() for mark in drawn}) == 3


LONG = [f"/data/experiments/vit-b-32_laion2b_lr1e-5_wd0.1_aug-m10_seed{i:02d}/checkpoints" for i in range(3)]


def long_figures(search: dict[str, Any], interpolation: dict[str, Any], style: Style) -> dict[str, Any]:
    """Every figure, of models, tasks and classes whose names are longer than the figure is wide."""
    task = "wds/vtab/a_task_with_a_long_name_as_people_have_them"
    scores = [read(score(ref, 0.5 + 0.1 * i, task)) for i, ref in enumerate(LONG)]
    search["score"]["task"] = task
    for point in interpolation["points"]:
        point["scores"][0]["task"] = task
    points = [
        Point(ref, 0.5 + 0.1 * i, 0.4, role)
        for i, (ref, role) in enumerate(zip(LONG, ("ingredient", "greedy", "soup"), strict=True))
    ]
    classes = {f"a class of which the name is long, number {i}": 0.1 * i - 0.3 for i in range(6)}
    bins = tuple(Bin(10, i / 10, i / 12) for i in range(10))
    return {
        "search": draw_search(SearchDocument.model_validate(search), style),
        "interpolation": draw_interpolation(InterpolationDocument.model_validate(interpolation), style),
        "scores": draw_scores(scores, style),
        "scatter": draw_scatter(points, f"{task}:test", "mean of 5 shifts of the ImageNet family, and more", style),
        "differences": draw_differences(classes, LONG[0], LONG[1], style),
        "calibration": draw_reliability(
            [Reliability(ref, task, "", bins) for ref in LONG], {r: r for r in LONG}, style
        ),
    }


@pytest.mark.parametrize("narrow", [True, False])
def test_no_label_of_a_figure_is_cut(narrow: bool, search: dict[str, Any], interpolation: dict[str, Any]) -> None:
    for name, figure in long_figures(search, interpolation, Style(LIGHT, narrow)).items():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        (axes,) = figure.axes
        beyond = [
            label
            for axis in (axes.xaxis, axes.yaxis)
            for at, label in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
            if not min(axis.get_view_interval()) <= at <= max(axis.get_view_interval())
        ]
        drawn = [t for t in figure.findobj(Text) if t.get_text() and t.get_visible() and t not in beyond]
        boxes = {t.get_text(): t.get_window_extent(canvas.get_renderer()) for t in drawn}
        cut = [text for text, box in boxes.items() if box.x0 < -1 or box.x1 > figure.bbox.x1 + 1]
        assert len(boxes) > 5 and not cut, name
        assert axes.get_window_extent().width > figure.bbox.width / 2, f"{name}: the data keep their room"


@pytest.mark.parametrize("name", ["f.png", "f.svg", "f.pdf"])
def test_a_figure_has_the_format_of_its_suffix_and_the_same_bytes_again(
    name: str, search: dict[str, Any], interpolation: dict[str, Any], tmp_path: Path
) -> None:
    for plot, document in ((plot_search, search), (plot_interpolation, interpolation)):
        plot(document, tmp_path / name)
        first = (tmp_path / name).read_bytes()
        plot(document, tmp_path / name)
        assert (tmp_path / name).read_bytes() == first
    assert first.startswith({"f.png": b"\x89PNG", "f.svg": b"<?xml", "f.pdf": b"%PDF"}[name])
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_narrow_figure_is_half_as_wide(tmp_path: Path) -> None:
    widths = []
    for narrow in (False, True):
        plot_scores([score("runs/a", 0.9), score("soup", 0.95)], tmp_path / "s.png", style=Style(DARK, narrow))
        widths.append(Image.open(tmp_path / "s.png").width)
    assert widths[0] == 2 * widths[1]


def test_what_is_wrong_with_a_document_is_named(search: dict[str, Any], tmp_path: Path) -> None:
    broken: list[tuple[dict[str, Any], str]] = [
        ({**search, "decisions": []}, "decisions"),
        ({k: v for k, v in search.items() if k != "score"}, "score: field required"),
        ({**search, "score": score("soup", float("nan"))}, "score.value"),
        ({**search, "score": score("soup", 79.4) | {"low": None, "high": None}}, "fractions, not percent"),
    ]
    for document, complaint in broken:
        with pytest.raises(DataError, match=complaint):
            plot_search(document, tmp_path / "s.png")
    with pytest.raises(UsageError, match="no suffix"):
        plot_search(search, tmp_path / "s.gif")
    with pytest.raises(StorageError, match="cannot be written"):
        plot_search(search, tmp_path / "nowhere" / "s.png")
    assert not list(tmp_path.iterdir())


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def deuteranope(colour: str) -> tuple[float, float, float]:
    """The colour as someone without green cones sees it (Machado et al. 2009, severity 1, on sRGB values)."""
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return (0.367 * r + 0.861 * g - 0.228 * b, 0.280 * r + 0.673 * g + 0.047 * b, -0.012 * r + 0.043 * g + 0.969 * b)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_and_marks_stand_out_and_are_told_apart_without_green(theme: Theme) -> None:
    def contrast(colour: str) -> float:
        lighter, darker = sorted((luminance(colour), luminance(theme.page)), reverse=True)
        return (lighter + 0.05) / (darker + 0.05)

    marks = [theme.ingredient, theme.soup, theme.third, theme.fourth]
    assert all(contrast(c) >= 4.5 for c in (theme.ink, theme.soft, *marks))
    for one, other in combinations(marks, 2):
        distance = sum((a - b) ** 2 for a, b in zip(deuteranope(one), deuteranope(other), strict=True)) ** 0.5
        assert distance > 40, (one, other)
