"""The reference is made of names that are there, and documented."""

import re
from importlib import import_module
from types import ModuleType

import pytest

import soupkit
from tests.docs.pages import ROOT

NAMES = re.findall(r"^::: (\S+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)


def resolve(name: str) -> object:
    """Return the module or the member of a module that a dotted name stands for."""
    try:
        return import_module(name)
    except ModuleNotFoundError:
        module, _, member = name.rpartition(".")
        return getattr(import_module(module), member)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_the_reference_is_there_with_a_docstring(name: str) -> None:
    assert resolve(name).__doc__


def test_what_soupkit_exports_is_in_the_reference() -> None:
    shown = {name.rpartition(".")[2] for name in NAMES}
    for name in NAMES:
        if isinstance(module := resolve(name), ModuleType):
            shown |= set(vars(module))
    earlier_names = {"greedy_search"}
    assert set(soupkit.__all__) - {"__version__"} - earlier_names <= shown
