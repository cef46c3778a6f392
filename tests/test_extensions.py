"""Tables take rows of others, say where each is from, and get over one that is broken."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from soupkit.errors import UsageError
from soupkit.extensions import PluginWarning, Table


@dataclass(frozen=True)
class Spice:
    name: str
    summary: str = "a spice"


class Spices(Table[Spice]):
    """A table whose own row, `salt`, is declared by the module `own_spices`, as soupkit's modules declare theirs."""

    latest: "Spices"

    def __init__(self) -> None:
        super().__init__("spice", Spice, group="soupkit.spices", option="--spice", modules=("own_spices",))
        Spices.latest = self


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory that packages are installed in; the module of the table's own row is there."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_spices.py").write_text(
        "from tests.test_extensions import Spice, Spices\nSpices.latest.add(Spice('salt'), module=__name__)\n"
    )
    yield tmp_path
    for module in set(sys.modules) - before:
        del sys.modules[module]


def install(packages: Path, name: str, code: str) -> None:
    """Install a package of one module, `name`, whose entry point gives the module's `row`."""
    (packages / f"{name}.py").write_text("from tests.test_extensions import Spice, Spices\n" + code)
    about = packages / f"{name}-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (about / "entry_points.txt").write_text(f"[soupkit.spices]\nrow = {name}:row\n")


def test_rows_of_others_follow_the_table_s_own_and_say_where_they_are_from(packages: Path) -> None:
    install(packages, "north", "row = [Spice('dill'), Spice('caraway')]")
    install(packages, "east", "row = Spice('cumin')")
    table = Spices()
    assert list(table) == ["salt", "cumin", "dill", "caraway"]
    assert [table.package_of(name) for name in table] == ["soupkit", "east", "north", "north"]


def test_a_program_adds_rows_too(packages: Path) -> None:
    table = Spices()
    mint = table.add(Spice("mint"))
    assert table.find("mint") is mint and table.package_of("mint") == "this program" and list(table) == ["salt", "mint"]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("row = 3", "broken:row: gives no spice"),
        ("row = [Spice('basil'), Spice('salt')]", "the spice 'salt' of broken is there already, from soupkit"),
        ("row = Spice('Sea Salt')", "'Sea Salt' is no name for a spice"),
        ("", "AttributeError: module 'broken' has no attribute 'row'"),
    ],
)
def test_a_broken_package_is_named_and_the_rest_goes_on(code: str, said: str, packages: Path) -> None:
    install(packages, "broken", code)
    install(packages, "east", "row = Spice('cumin')")
    table = Spices()
    with pytest.warns(PluginWarning, match="the plug-in 'row' of broken cannot be loaded"):
        assert list(table) == ["salt", "cumin"]
    (broken,) = table.broken
    assert broken.package == "broken" and said in broken.error and "\n" not in str(broken)
    with pytest.raises(UsageError) as caught:
        table.find("basil")
    assert str(broken) in caught.value.hint


def test_a_name_that_is_not_there_is_answered_with_the_nearest(packages: Path) -> None:
    with pytest.raises(UsageError, match="--spice: there is no spice 'slat'\nhint: did you mean salt"):
        Spices().find("slat")


def test_a_name_that_is_taken_is_refused_and_names_both_owners(packages: Path) -> None:
    with pytest.raises(UsageError, match="'salt' of this program is there already, from soupkit"):
        Spices().add(Spice("salt"))
