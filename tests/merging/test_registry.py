"""The table of methods: what is read from a signature, and what is shown from it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file

from soupkit.errors import UsageError
from soupkit.merging import merge
from soupkit.merging.declarations import declared_by
from soupkit.merging.method_tables import as_help, as_markdown
from soupkit.merging.papers import SOUPS
from soupkit.merging.registry import METHODS, Bounds, Paper, each, merge_method
from tests.processes import soupkit

ROOT = Path(__file__).parents[2]


def lifted(
    ops: Any,
    ingredients: Any,
    base: None,
    *,
    lift: Annotated[Sequence[float], Bounds(-5, 5), "added to each ingredient"] = each(0.5),
    steps: Annotated[int, Bounds(1, 9), "how often"] = 2,
    signed: Annotated[bool, "subtract instead"] = False,
    end: Annotated[Literal["first", "last"], "which ingredient is taken"] = "first",
    needed: Annotated[float, Bounds(0, 1, above=True), "no default"],
) -> torch.Tensor:
    """One ingredient, lifted."""
    i = 0 if end == "first" else len(ingredients) - 1
    return ops.copy(ingredients[i]).add_((-1 if signed else 1) * steps * lift[i])


@pytest.fixture
def with_lifted() -> Iterator[None]:
    """The table with one row more, as a program adds it."""
    merge_method(paper=SOUPS)(lifted)
    yield
    for kept in (METHODS._rows, METHODS._packages):
        del kept["lifted"]


def test_parameters_are_read_from_the_signature_though_its_annotations_are_texts() -> None:
    parameters = declared_by(lifted)[0]
    assert list(parameters) == ["lift", "steps", "signed", "end", "needed"]
    assert [p.kind for p in parameters.values()] == [float, int, bool, str, float]
    assert [p.default for p in parameters.values()] == [0.5, 2, False, "first", None]
    assert [p.per_ingredient for p in parameters.values()] == [True, False, False, False, False]
    assert parameters["end"].choices == ("first", "last") and parameters["lift"].help == "added to each ingredient"
    assert 0 not in Bounds(0, 1, above=True) and 0 in Bounds(0, 1) and 1 in Bounds(0, 1, above=True)


def test_a_parameter_of_another_kind_is_refused_where_it_is_declared() -> None:
    def odd(ops: Any, ingredients: Any, base: None, *, names: list[str]) -> None:
        """No method."""

    with pytest.raises(TypeError, match="parameter names of odd"):
        merge_method(paper=SOUPS)(odd)
    assert "odd" not in METHODS


@pytest.mark.usefixtures("with_lifted")
def test_a_method_that_a_program_adds_is_merged_with(tmp_path: Path) -> None:
    for i in range(2):
        save_file({"x": torch.full((3,), float(i))}, tmp_path / f"{i}.safetensors")
    refs = [tmp_path / f"{i}.safetensors" for i in range(2)]
    given = {"lift": [1, 2], "steps": 3, "signed": True, "end": "last", "needed": 1}
    merge(refs, tmp_path / "soup", method="lifted", parameters=given)
    assert load_file(tmp_path / "soup/model.safetensors")["x"].tolist() == [1 - 3 * 2] * 3
    assert METHODS.package_of("lifted") == "this program" and "lifted" in as_help()


@pytest.mark.usefixtures("with_lifted")
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"steps": 1.5}, "1.5 is no whole number"),
        ({"steps": 10}, "10 is not between 1 and 9"),
        ({"end": "lats"}, "did you mean last"),
        ({"signed": "perhaps"}, "neither true nor false"),
        ({"needed": 0}, "0 is not above 0 and at most 1"),
        ({"steps": {"gradient": [1, 2]}}, "takes no gradient"),
        ({"end": ["first", "last"]}, "takes one value, not 2"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(given: dict[str, Any], words: str, tmp_path: Path) -> None:
    refs = [tmp_path / f"{i}.safetensors" for i in range(2)]
    for i, ref in enumerate(refs):
        save_file({"x": torch.full((3,), float(i))}, ref)
    with pytest.raises(UsageError, match=words):
        merge(refs, tmp_path / "soup", method="lifted", parameters={"needed": 1, **given})


def test_listing_the_methods_imports_no_torch() -> None:
    code = "import sys; from soupkit.merging.method_tables import as_help; as_help(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_help_of_merge_lists_every_method_and_every_parameter() -> None:
    shown = " ".join(soupkit("merge", "--help").stdout.split())
    for method in METHODS.values():
        assert method.name in shown
        for name, parameter in method.parameters.items():
            assert (f"{name}={parameter.shown_default}" if parameter.default is not None else name) in shown


def test_the_table_in_the_docs_is_that_of_the_program() -> None:
    text = (ROOT / "docs/methods.md").read_text("utf-8")
    shown = re.search(r"<!-- methods -->\n(.*?)<!-- end of methods -->", text, re.DOTALL)
    assert shown is not None and shown[1] == as_markdown(), "scripts/make_tables.py writes it"


def test_a_paper_is_cited_by_its_authors() -> None:
    def cited(*authors: str) -> str:
        return Paper(authors, "On soups", 2020, "https://example.org").citation

    assert cited("Ada Lovelace") == "Lovelace 2020"
    assert cited("Ada Lovelace", "Charles Babbage") == "Lovelace and Babbage 2020"
    assert cited("Ada Lovelace", "Charles Babbage", "Alan Turing") == "Lovelace et al. 2020"
    assert METHODS["slerp"].citation == "Shoemake 1985"
    assert METHODS["slerp"].paper.bibtex.startswith("@misc{shoemake1985animating,\n  title = {{Animating rotation")
