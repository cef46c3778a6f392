"""Every public name has a docstring, and every function an example that runs as it stands there."""

import doctest
import inspect
from pathlib import Path

import pytest

import soupkit

FUNCTIONS = [
    "merge", "search", "interpolate", "train", "run_recipe", "compare", "evaluate", "classify", "report", "publish",
]  # fmt: skip


@pytest.mark.parametrize("name", soupkit.__all__)
def test_every_public_name_is_explained(name: str) -> None:
    assert inspect.getdoc(getattr(soupkit, name)) or name == "__version__"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_example_of_a_function_runs(name: str, here: Path, names: dict[str, object]) -> None:
    if name == "publish":
        soupkit.merge(["runs/a", "runs/b"], "soups/uniform")
    function = soupkit.__getattr__(name)  # also where `search` is the package of that name
    (test,) = doctest.DocTestFinder(recurse=False).find(function, name, globs=names)
    assert test.examples
    said: list[str] = []
    failures, _ = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append)
    assert failures == 0, "".join(said)


def test_the_example_of_visible_texts_runs() -> None:
    import soupkit.text

    assert doctest.testmod(soupkit.text).failed == 0
