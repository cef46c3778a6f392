"""The keywords that type checkers and notebooks know are those that there are."""

import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import soupkit
from soupkit.api import keywords as written
from soupkit.errors import UsageError
from soupkit.search.run_search import search
from soupkit.search.strategies.table import own_options

OPTIONS = {
    soupkit.RunOptions: written.RunKeywords,
    soupkit.EvaluationOptions: written.EvaluationKeywords,
    soupkit.TrainOptions: written.TrainKeywords,
    soupkit.PushOptions: written.PushKeywords,
}


@pytest.mark.parametrize("options", OPTIONS, ids=lambda one: one.__name__)
def test_keywords_are_the_fields_of_the_options(options: type[Any]) -> None:
    hints = get_type_hints(options)
    expected = {field.name: hints[field.name] for field in fields(options)}
    # A path may be written as a text.
    texts = {name: str | Path | None for name, hint in expected.items() if hint == Path | None}
    assert get_type_hints(OPTIONS[options]) == expected | texts


def test_keywords_of_a_search_are_those_of_the_function_and_of_soupkit_s_strategies() -> None:
    explicit = {"refs", "tasks", "report_tasks", "score", "strategy", "evaluation", "progress", "output", "options"}
    known = {name: p.annotation for name, p in inspect.signature(search).parameters.items() if name not in explicit}
    own = {name: str if option.several else option.kind for name, (option, _) in own_options().items()}
    evaluation = get_type_hints(written.EvaluationKeywords)
    hints = get_type_hints(written.SearchKeywords)
    assert hints.keys() == known.keys() | own.keys() | evaluation.keys()
    for name, kind in own.items():
        several = own_options()[name][0].several
        assert (kind in hints[name].__args__) if several else hints[name] is kind, name
    assert {name: hints[name] for name in known if name != "picture"} == {
        name: kind for name, kind in known.items() if name != "picture"
    }


@pytest.mark.parametrize(
    ("name", "keywords"),
    [
        ("merge", written.RunKeywords), ("search", written.SearchKeywords), ("train", written.TrainKeywords),
        ("interpolate", written.EvaluationKeywords), ("evaluate", written.EvaluationKeywords),
        ("publish", written.PushKeywords),
    ],
)  # fmt: skip
def test_help_and_notebooks_see_the_keywords(name: str, keywords: type) -> None:
    parameters = inspect.signature(soupkit.__getattr__(name)).parameters  # type: ignore[arg-type]
    assert get_type_hints(keywords).keys() <= parameters.keys()
    assert not any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    assert inspect.signature(getattr(soupkit, name)) == inspect.signature(soupkit.__getattr__(name)), "a package, too"  # type: ignore[arg-type]


def test_the_options_of_a_search_are_keywords_or_one_value(here: Path) -> None:
    def plan(**how: Any) -> Any:
        return soupkit.search(["runs/a", "runs/b"], "out", tasks="digits", limit=20, dry_run=True, **how).plan

    one = plan(options=soupkit.SearchOptions("weights", budget=7))
    assert one == plan(strategy="weights", budget=7) and one.strategy == "weights"
    for beside in ({"strategy": "swap"}, {"seed": 1}, {"budget": 3}):
        with pytest.raises(UsageError, match=f"^{next(iter(beside))}: is said beside the options themselves"):
            plan(options=soupkit.SearchOptions("weights"), **beside)
