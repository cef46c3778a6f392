"""The notebooks run from their first cell to their last, and what they say of their results is so."""

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
RECIPES = Path(__file__).parents[2] / "recipes"


def run(notebook: str) -> tuple[dict[str, Any], list[Any]]:
    """Execute the code cells of a notebook; return its names, and what the last line of each cell shows."""
    cells = json.loads((EXAMPLES / f"{notebook}.ipynb").read_text("utf-8"))["cells"]
    names: dict[str, Any] = {"__name__": "__main__"}
    shown = []
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        assert not cell["outputs"] and cell["execution_count"] is None, "notebooks are kept without outputs"
        body = ast.parse("".join(cell["source"])).body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), notebook, "exec"), names)
        if last is not None:
            assert isinstance(last, ast.Expr)
            shown.append(eval(compile(ast.Expression(last.value), notebook, "eval"), names))
    return names, shown


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folders that a notebook finds beside itself."""
    shutil.copytree(RECIPES, tmp_path / "recipes")
    (tmp_path / "examples").mkdir()
    monkeypatch.chdir(tmp_path / "examples")
    monkeypatch.setenv("SOUPKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "examples"


def test_from_fine_tunes_to_a_published_soup(workplace: Path) -> None:
    names, shown = run("fine_tunes_to_published_soup")
    assert (workplace / "hub" / "README.md").is_file() and (workplace / "report.html").is_file()
    assert len(names["scores"].scores) == 5 and names["found"].document.selected
    assert all(result._repr_html_() and repr(result) for result in shown if hasattr(result, "_repr_html_"))


def test_a_search_by_a_score_of_one_s_own(workplace: Path) -> None:
    names, _ = run("search_by_a_score_of_your_own")
    document = names["document"]
    assert "fit3.safetensors" not in document.selected and len(document.selected) > 1
    assert document.score.value > document.best_ingredient.value and names["unseen"] > 0.9
