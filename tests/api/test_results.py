"""Results are dictionaries, frames, texts and pages, and say the same in all of them."""

import json
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

import soupkit
from soupkit.api.results import EvaluationResult, SearchResult
from soupkit.api.shown import Shown
from soupkit.cli.commands import register

COMMANDS = Typer()
register(COMMANDS)


@pytest.fixture
def each(here: Path) -> dict[str, Shown]:
    found: dict[str, Shown] = {
        "merge": soupkit.merge(["runs/a", "runs/b"], "soups/uniform"),
        "compare": soupkit.compare(["runs/a", "runs/b"]),
        "evaluate": soupkit.evaluate(["runs/a", "soups/uniform"], "digits", limit=20),
        "search": soupkit.search(["runs/a", "runs/b"], "soups/best", tasks="digits", limit=20),
        "interpolate": soupkit.interpolate("runs/base", "runs/a", tasks="digits", points=3, limit=20),
        "classify": soupkit.classify("runs/a", "picture.png", ["a dog", "a cat"]),
        "report": soupkit.report("scores.json"),
        "publish": soupkit.publish("soups/uniform", "me/soup", license="mit", folder="hub"),
        "train": soupkit.train(
            "recipe.yaml",
            "trained",
            run="stage1",
            settings=["stage1.samples=160", "stage1.warmup=0"],
            device="cpu",
            workers=0,
        ),
        "run_recipe": soupkit.run_recipe("recipe.yaml", "out", dry_run=True),
    }
    return found


def test_every_result_is_a_dictionary_rows_a_text_and_a_page(each: dict[str, Shown]) -> None:
    for name, result in each.items():
        rows = result.rows()
        assert rows and all(list(row) == list(rows[0]) for row in rows), name
        json.dumps(result.to_dict())
        text, page = repr(result), result._repr_html_()
        assert text.splitlines()[0] == result.headline() and len(text.splitlines()) >= 2, name
        assert page.count("<table") == 1 and page.count("<tr") >= 2 and "<script" not in page, name
    best = max(each["evaluate"].rows(), key=lambda row: row["value"])["value"]
    assert f"<strong>{100 * best:.2f}</strong>" in each["evaluate"]._repr_html_(), "the table of the report"
    assert "leave one out" in each["search"]._repr_html_() or "weight" in each["search"]._repr_html_()
    assert each["search"]._repr_html_().count("data:image/svg+xml;base64,") == 1
    assert each["evaluate"]._repr_html_().count("data:image/svg+xml;base64,") == 1
    assert each["interpolate"]._repr_html_().count("data:image/svg+xml;base64,") == 1


def test_a_frame_has_the_rows(here: Path) -> None:
    pandas = pytest.importorskip("pandas")
    result = soupkit.compare(["runs/a", "runs/b"])
    frame = result.to_frame()
    assert isinstance(frame, pandas.DataFrame) and list(frame["ref"]) == ["runs/a", "runs/b"]
    assert frame.to_dict("records") == result.rows()


def test_without_pandas_a_frame_says_what_to_install(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(soupkit.SoupkitError, match=r"needs pandas.*\nhint: pip install pandas"):
        soupkit.compare(["runs/a", "runs/b"]).to_frame()


def test_functions_give_what_the_commands_print(here: Path) -> None:
    result = soupkit.evaluate(["runs/a", "runs/b"], "digits", limit=20)
    done = CliRunner().invoke(COMMANDS, ["evaluate", "runs/a", "runs/b", "--task=digits", "--limit=20", "--json"])
    assert json.loads(done.stdout)["scores"] == json.loads(json.dumps(result.to_dict()))["scores"]
    assert isinstance(result, EvaluationResult)


def test_names_of_strangers_do_nothing_on_a_page_or_a_terminal(here: Path) -> None:
    evil = "runs/<b>\x1b[2J"
    (here / "runs" / "a").rename(here / evil)
    result = soupkit.compare([evil, "runs/b"])
    assert "\x1b" not in repr(result) + result._repr_html_() and "<b>" not in result._repr_html_()


def test_results_of_a_search_are_those_of_the_floor_below(here: Path) -> None:
    found = soupkit.search(["runs/a", "runs/b"], "soups/one", score=lambda directory: 1.0)
    assert isinstance(found, SearchResult) and found.document.selected[0] == "runs/a"
