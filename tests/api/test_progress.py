"""Who watches a function: nobody, a terminal, or the page of a notebook."""

import builtins
import io
import sys
from types import ModuleType

import pytest

from soupkit.api.arguments import watched
from soupkit.cli.output import plain_console
from soupkit.cli.progress import BarProgress, PlainProgress
from soupkit.progress import SILENT


class ZMQInteractiveShell:
    """What Jupyter calls the shell of a notebook, by which rich knows it."""


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    for name in ("IPython", "ipywidgets"):
        module = ModuleType(name)
        module.__spec__ = __import__("importlib.machinery").machinery.ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)


def test_a_script_hears_nothing_unless_it_asks() -> None:
    assert watched(None) is SILENT and watched(False) is SILENT
    assert isinstance(watched(True), PlainProgress)
    mine = PlainProgress()
    assert watched(mine) is mine


@pytest.mark.usefixtures("notebook")
def test_a_notebook_has_rich_s_bars_in_its_own_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert isinstance(watched(None), BarProgress) and watched(False) is SILENT
    console = plain_console(stderr=True)
    assert console.is_jupyter and console.width == 115


@pytest.mark.usefixtures("notebook")
def test_a_notebook_without_widgets_has_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ipywidgets")
    monkeypatch.setattr("soupkit.cli.progress.find_spec", lambda name: None)
    assert isinstance(watched(None), PlainProgress)
