"""Tables on the pages are those of the program."""

import runpy

import pytest

from tests.docs.pages import ROOT

SCRIPT = runpy.run_path(str(ROOT / "scripts" / "make_tables.py"))


@pytest.mark.parametrize("name", SCRIPT["TABLES"])
def test_the_table_on_the_page_is_that_of_the_program(name: str) -> None:
    page, make = SCRIPT["TABLES"][name]
    text = (ROOT / "docs" / page).read_text("utf-8")
    assert SCRIPT["renewed"](text, name, make()) == text, "python scripts/make_tables.py"
