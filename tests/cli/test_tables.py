"""Tables of comparisons, searches and curves fit terminals of four widths, and models stay tellable apart."""

from pathlib import Path
from typing import Any

import pytest

from soupkit.checkpoint import compare
from soupkit.cli.compare import _show as show_comparison
from soupkit.cli.console import PlainConsole
from soupkit.cli.search_output import _show_scores
from soupkit.cli.tables import show_in_parts
from soupkit.search.document import SearchDocument
from tests.cli.test_score_table import RUNS
from tests.conftest import random_state, save
from tests.publishing.conftest import score

WIDTHS = (60, 80, 120, 200)


def console(width: int) -> PlainConsole:
    return PlainConsole(width=width, highlight=False, markup=False, emoji=False)


@pytest.fixture
def named_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three runs whose names differ in their last letter."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(RUNS):
        save(Path(name), random_state(seed))
    return RUNS


@pytest.mark.parametrize("width", WIDTHS)
def test_pairs_of_runs_that_are_named_alike_are_told_apart(
    width: int, named_alike: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    show_comparison(compare(named_alike, weights=True))
    lines = capsys.readouterr().out.splitlines()
    listed = lines[lines.index(next(line for line in lines if line.startswith("checkpoint"))) + 1 :][:3]
    ends = [[end for end in ("seed01", "seed02", "seed03") if end in line] for line in listed]
    assert ends == [["seed01"], ["seed02"], ["seed03"]]
    pairs = [line for line in lines if " text " in line and "seed" in line]
    assert [[end for end in ("seed01", "seed02", "seed03") if end in line] for line in pairs] == [
        ["seed01", "seed02"], ["seed01", "seed03"], ["seed02", "seed03"]
    ]  # fmt: skip
    assert max(map(len, pairs + listed)) <= width and not any(line.endswith("…") for line in pairs)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_scores_of_a_search_are_whole_at_any_width(
    width: int, search: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    task = "wds/vtab/a_task_with_a_name"
    search["report"] = [score(ref, 0.6 + i / 10, task, "test") for i, ref in enumerate(("soup", "runs/a", "uniform"))]
    _show_scores(SearchDocument.model_validate(search), console(width))
    text = capsys.readouterr().out
    assert all(f"{value} ±2.0" in text for value in ("92.50", "91.00", "90.00", "60.00", "70.00", "80.00"))
    assert max(map(len, text.splitlines())) <= width and "…" not in text


def test_a_table_that_is_too_wide_is_continued_below(capsys: pytest.CaptureFixture[str]) -> None:
    heads = ["alpha", *(f"task-{i}" for i in range(6))]
    show_in_parts(console(24), heads, [[str(a), *(f"{a}.{i}" for i in range(6))] for a in range(2)])
    text = capsys.readouterr().out
    assert [line.split() for line in text.splitlines()] == [
        ["alpha", "task-0", "task-1"], ["0", "0.0", "0.1"], ["1", "1.0", "1.1"], [],
        ["alpha", "task-2", "task-3"], ["0", "0.2", "0.3"], ["1", "1.2", "1.3"], [],
        ["alpha", "task-4", "task-5"], ["0", "0.4", "0.5"], ["1", "1.4", "1.5"],
    ]  # fmt: skip


def test_a_single_column_is_a_table_too(capsys: pytest.CaptureFixture[str]) -> None:
    show_in_parts(console(30), ["alone"], [["a"], ["b"]])
    assert [line.strip() for line in capsys.readouterr().out.splitlines()] == ["alone", "a", "b"]
