"""Every error that is raised names its subject and says what to do."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import soupkit
from soupkit import errors

PACKAGE = Path(soupkit.__file__).parent
KINDS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
FLOORS = ("checkpoint", "cli", "evaluation", "merging", "publishing", "recipe", "search", "training")


def incomplete(path: Path) -> Iterator[str]:
    """Yield the lines of `path` that raise an error without a subject or without a hint."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS:
            given = len(node.args) + len(node.keywords)
            given += 3 * any(isinstance(a, ast.Starred) for a in node.args)  # the parts come from a function
            empty = any(isinstance(a, ast.Constant) and a.value == "" for a in node.args[:3])
            if given < 3 or empty:
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}"


@pytest.mark.parametrize("floor", FLOORS)
def test_every_error_has_a_subject_and_a_hint(floor: str) -> None:
    assert not [line for path in sorted((PACKAGE / floor).rglob("*.py")) for line in incomplete(path)]
