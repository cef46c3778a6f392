"""A soup's entry in a recipe, and what is said about one that is wrong."""

from pathlib import Path

import pytest
import torch

from soupkit.errors import UsageError
from soupkit.merging import read_soup
from tests.conftest import random_state, save
from tests.processes import soupkit

ENTRY = "ingredients: [a, b]\nmethod: linear\nweight: [2, 1]\n"


def write(tmp_path: Path, text: str) -> Path:
    (tmp_path / "recipe.yaml").write_text(text)
    return tmp_path / "recipe.yaml"


def test_an_entry_alone_is_read(tmp_path: Path) -> None:
    entry = read_soup(write(tmp_path, ENTRY))
    assert (entry.ingredients, entry.method, entry.weights) == (["a", "b"], "linear", [2.0, 1.0])


def test_a_soup_of_a_whole_recipe_is_found_by_name_or_because_it_is_the_only_merge(tmp_path: Path) -> None:
    whole = (
        "version: 1\ntrain: {}\nsoup:\n  one: {ingredients: [a, b]}\n  best: {ingredients: [a, b], search: greedy}\n"
    )
    assert read_soup(write(tmp_path, whole)).method == "uniform"
    two = whole + "  two: {ingredients: [c, d]}\n"
    assert read_soup(write(tmp_path, two), "two").ingredients == ["c", "d"]
    with pytest.raises(UsageError, match="2 merges: one, two"):
        read_soup(write(tmp_path, two))
    with pytest.raises(UsageError, match="no soup 'three'"):
        read_soup(write(tmp_path, two), "three")


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (ENTRY + "metod: uniform\n", 4, "no key 'metod'"),
        ("ingredients: [a, b]\nweight:\n  - 1\n  - x\n", 4, "weight.1"),
        ("method: uniform\n", 1, "ingredients"),
        (ENTRY + "method: uniform\n", 4, "'method' twice"),
        ("ingredients: [a,\n", 2, "YAML"),
        ("ingredients: [a, '${train.b}']\n", 1, r"\$\{train.b\} stands for"),
        ("soup:\n  x: {ingredients: [a, b], alpha: 1}\n", 2, "no key 'alpha'"),
        (ENTRY + "param: {normalise: 0}\n", 4, "no parameter 'normalise'"),
        (ENTRY + "param:\n  normalize: maybe\n", 5, "normalize: 'maybe' is neither"),
        ("ingredients: [a, b]\nmethod: linaer\n", 2, "no merge method 'linaer'"),
        ("ingredients: [a, b]\nbase: c\nmethod: interpolate\nparameters:\n  alpha: {'*': 2}\n", 5, "not between 0"),
        ("- a\n- b\n", 1, "should be a map"),
        ("", 1, "should be a map"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        read_soup(write(tmp_path, text))
    assert caught.value.where.endswith(f"recipe.yaml, line {line}")


def test_weights_and_parameters_have_the_words_of_the_command_and_those_of_python(tmp_path: Path) -> None:
    words = read_soup(write(tmp_path, ENTRY + "param: {normalize: 0}\n"))
    names = read_soup(write(tmp_path, ENTRY.replace("weight:", "weights:") + "parameters: {normalize: 0}\n"))
    assert words == names and names.parameters == {"normalize": 0}
    with pytest.raises(UsageError, match="no key 'weight'"):
        read_soup(write(tmp_path, ENTRY + "weights: [1, 1]\n"))


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        read_soup(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("name", ["uniform", "wise-ft", "task-arithmetic"])
def test_the_recipes_in_the_repository_make_their_soups(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    for i, run in enumerate(("stage1", "a", "b", "c")):
        save(tmp_path / "runs" / run, random_state(i, torch.bfloat16))
    recipe = Path(__file__).parents[2] / "recipes" / f"{name}.yaml"
    done = soupkit("merge", "--recipe", recipe, "-o", "soup", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "soup" / "soup.json").is_file()
