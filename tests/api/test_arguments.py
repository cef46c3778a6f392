"""One or many, texts or paths; what is neither is named, and so is the way out."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import soupkit
from soupkit.api.arguments import references
from soupkit.errors import UsageError


@pytest.mark.parametrize(
    ("value", "refs"),
    [
        ("runs/a", ["runs/a"]),
        (Path("runs/a"), ["runs/a"]),
        (["runs/a", Path("runs/b")], ["runs/a", "runs/b"]),
        ((Path("a"),), ["a"]),
        ({"a": 1}.keys(), ["a"]),
    ],
)
def test_one_or_many_are_a_list(value: Any, refs: list[str]) -> None:
    assert references(value, "models") == refs


@pytest.mark.parametrize(
    ("value", "where", "what"),
    [
        ({"w": torch.zeros(2)}, "models", "is a state dict, and no reference"),
        (["a", {"w": torch.zeros(2)}], "models[1]", "is a state dict, and no reference"),
        (torch.nn.Linear(1, 1), "models", "is Linear, and no reference"),
        (3, "models", "is int, and no reference"),
        ([], "models", "names nothing"),
    ],
)
def test_what_is_no_reference_is_named_with_the_way_out(value: Any, where: str, what: str) -> None:
    with pytest.raises(UsageError, match=what.replace("[", r"\[")) as caught:
        references(value, "models")
    assert caught.value.where == where and caught.value.hint


def test_weights_in_memory_are_ingredients_and_what_is_none_is_named(here: Path) -> None:
    clip = load_file("runs/a/open_clip_model.safetensors")
    soup = soupkit.merge(["runs/b", clip])
    assert set(soup) == set(clip)
    assert soupkit.compare([clip, "runs/a"], base=clip).mergeable
    found = soupkit.search([clip, "runs/b"], "found", score=lambda directory: 1.0)
    assert found.document.selected == ("memory:ingredients[0]", "runs/b")
    with pytest.raises(UsageError, match=r"ingredients\[1\]: is int, and no reference"):
        soupkit.merge(["runs/a", 3], "out")  # type: ignore[call-overload]
    with pytest.raises(soupkit.SoupkitError, match="is str, and no tensor"):
        soupkit.merge({"a": "runs/a"}, "out")  # type: ignore[call-overload]
    assert not (here / "out").exists()


def test_an_option_that_there_is_not_is_named(here: Path) -> None:
    with pytest.raises(UsageError, match=r"^colour: is no option\nhint: the fields of RunOptions are device, threads"):
        soupkit.merge(["runs/a", "runs/b"], "out", colour="red")
    with pytest.raises(UsageError, match=r"^thread: is no option\nhint: did you mean threads\?"):
        soupkit.merge(["runs/a", "runs/b"], "out", thread=2)
    with pytest.raises(UsageError, match="the strategy swap has no option 'colour'"):
        soupkit.search(["runs/a", "runs/b"], "out", tasks="digits", strategy="swap", colour="red")
    with pytest.raises(UsageError, match=r"^fresh: is said beside the options themselves"):
        soupkit.merge(["runs/a", "runs/b"], "out", options=soupkit.RunOptions(), fresh=True)
    assert not (here / "out").exists()


def test_one_task_is_a_text_or_a_path(here: Path) -> None:
    from soupkit.evaluation.tasks import DIGITS

    by_name = soupkit.evaluate("runs/a", "digits", limit=20)
    by_path = soupkit.evaluate([Path("runs/a")], Path(DIGITS), limit=20)
    by_cache = soupkit.evaluate("runs/a", ["digits"], limit=20, cache="elsewhere")
    assert by_name.scores[0].value == by_path.scores[0].value == by_cache.scores[0].value
    assert (here / "elsewhere").is_dir()


def test_a_search_takes_the_options_of_evaluation_as_keywords(here: Path) -> None:
    plan = soupkit.search(["runs/a", "runs/b"], "out", tasks="digits", strategy="swap", limit=20, dry_run=True).plan
    assert plan is not None and (plan.images, plan.strategy) == (20, "swap")


def test_a_checkpoint_that_is_given_twice_is_scored_once_and_searched_once(here: Path) -> None:
    result = soupkit.evaluate(["runs/a", "runs/b", "runs/a"], "digits", limit=20)
    assert [score.ref for score in result.scores] == ["runs/a", "runs/b"]
    assert "runs/a is given more than once and is scored once" in result.notes
    shutil.copytree("runs/a", "runs/copy")
    found = soupkit.search(["runs/a", "runs/copy", "runs/b", "runs/a"], "found", score=lambda directory: 1.0)
    assert [score.ref for score in found.document.ingredients] == ["runs/a", "runs/b"]
    assert any("runs/copy has the weights of runs/a: one ingredient" in note for note in found.notes)


def test_search_is_a_package_and_a_function() -> None:
    import soupkit.search
    import soupkit.search.document

    assert callable(soupkit.search) and soupkit.search.document.SEARCH_NAME == "search.json"
