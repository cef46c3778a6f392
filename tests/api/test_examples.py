"""Every public name has a docstring with an example, and every example runs as it stands there.

Public are what `soupkit` exports and what the reference lists; of a module that it lists, what that module defines.
"""

import doctest
import inspect
import pkgutil
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import soupkit
from soupkit.merging.registry import METHODS
from tests.docs.test_api import NAMES, resolve

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def public() -> dict[str, Any]:
    """Return public names with what they stand for, each thing once."""
    found: dict[str, Any] = {"soupkit": soupkit}
    exported = [name for name in soupkit.__all__ if name != "__version__"]
    found |= {f"soupkit.{name}": soupkit.__getattr__(name) for name in exported}  # also where a package has that name
    for name in NAMES:
        value = resolve(name)
        if not isinstance(value, ModuleType):
            found[name] = value
            continue
        defined = {key: one for key, one in vars(value).items() if getattr(one, "__module__", "") == value.__name__}
        found |= {f"{name}.{key}": one for key, one in defined.items() if callable(one) and not key.startswith("_")}
    return {name: one for i, (name, one) in enumerate(found.items()) if one not in list(found.values())[:i]}


def examples(value: Any, names: dict[str, object]) -> list[doctest.DocTest]:
    """Return the examples of a docstring, which may use what its module does and what a user has."""
    inside = vars(sys.modules[value.__module__]) if not isinstance(value, ModuleType) else {}
    return doctest.DocTestFinder(recurse=False).find(value, "example", globs={**inside, **names})


def of_what_is_not_public() -> dict[str, doctest.DocTest]:
    """Return the examples of everything else in the package, by name."""
    found = {}
    for info in pkgutil.walk_packages(soupkit.__path__, "soupkit."):
        path = Path(info.module_finder.path, info.name.rpartition(".")[2]).with_suffix(".py")  # type: ignore[union-attr]
        if path.is_file() and ">>>" in path.read_text("utf-8"):
            tests = doctest.DocTestFinder().find(import_module(info.name))
            found |= {test.name: test for test in tests if test.examples}
    shown = {f"{one.__module__}.{one.__qualname__}" for name, one in public().items() if name != "soupkit"}
    return {name: test for name, test in found.items() if name not in shown}


def run(test: doctest.DocTest) -> None:
    said: list[str] = []
    failures, _ = doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=said.append)
    assert failures == 0, "".join(said)


@pytest.mark.parametrize("name", public())
def test_a_public_name_has_an_example_that_runs(name: str, here: Path, names: dict[str, object]) -> None:
    if "publish" in name.lower() or name.endswith("PushOptions"):
        soupkit.merge(["runs/a", "runs/b"], "soups/uniform")
    value = public()[name]
    assert inspect.getdoc(value)
    tests = examples(value, names)
    assert tests and all(test.examples for test in tests), f"{name} has no example that doctest would run"
    for test in tests:
        run(test)


@pytest.mark.parametrize("name", of_what_is_not_public())
def test_any_other_example_runs(name: str, here: Path, names: dict[str, object]) -> None:
    test = of_what_is_not_public()[name]
    test.globs.update(names)
    run(test)


@pytest.fixture(autouse=True)
def tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """An example may add a row to a table, and takes it with it."""
    assert len(METHODS)
    for state in ("_rows", "_packages"):
        monkeypatch.setattr(METHODS, state, dict(getattr(METHODS, state)))
