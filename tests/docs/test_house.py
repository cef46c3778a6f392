"""The picture of the house is drawn from the contract that the linter checks."""

import runpy

from tests.docs.pages import ROOT


def test_the_picture_is_what_the_script_draws() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "draw_house.py"))
    assert (ROOT / "docs" / "house.svg").read_text() == script["draw"](), "python scripts/draw_house.py"


def test_every_floor_of_the_contract_is_in_the_table_of_the_architecture() -> None:
    layers = runpy.run_path(str(ROOT / "scripts" / "draw_house.py"))["layers"]()
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert [layer for layer in layers if (ROOT / "soupkit" / layer).is_dir() and f"| `{layer}/` |" not in page] == []
