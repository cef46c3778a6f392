"""Every strategy of the table: never below its start, no more trials than it says, told and asked for by its row."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from typer import Typer
from typer.testing import CliRunner

import soupkit.search
from soupkit.cli.commands import register
from soupkit.errors import UsageError
from soupkit.search import SearchEntry, SearchOptions
from soupkit.search.hit_score import hit_metric
from soupkit.search.options import same_options
from soupkit.search.strategies.table import (
    STRATEGIES,
    Strategy,
    StrategyOption,
    as_markdown,
    own_options,
)
from tests.search.tables import Tables

every_strategy = pytest.mark.parametrize("name", list(STRATEGIES))


def pool(seed: int, rule: str = "exact") -> Tables:
    generator = np.random.default_rng(seed)
    margins = generator.normal(0.4, 1, 240) + generator.normal(0, 0.8, (5, 240))
    return Tables(margins, hit_metric(["acc1"], [np.zeros(240, np.int64)]), rule, seed=seed)


@every_strategy
def test_no_strategy_ends_below_its_start_or_makes_more_trials_than_it_says(name: str) -> None:
    row = STRATEGIES[name]
    options = row.settle({o.name: 15 for o in row.options if o.name == "budget"})
    for seed in range(6):
        trials = pool(seed)
        best = row.run(trials, trials.order(), **options)
        assert trials.first is not None and best.worth >= trials.first.worth
        assert best.worth == trials.worth(best.soup)
        most = row.most_trials(5, **options)
        assert most is None or (trials.trials <= most.trials and most.mixtures <= most.trials)
        assert trials.actions <= set(row.labels), "each kind of trial has a label"


def test_the_most_trials_of_a_search() -> None:
    def most(name: str, n: int, **given: int) -> int | None:
        row = STRATEGIES[name]
        found = row.most_trials(n, **row.settle(given))
        return found.trials if found is not None else None

    assert most("greedy", 5) == 4 and most("greedy", 5, orders=3) == 12
    assert most("weights", 5) == 104 and most("experts", 5) == 100
    assert most("backward", 3) == 6  # all of them, then three without one, then two
    assert most("swap", 5) is None


@every_strategy
def test_a_trial_is_told_in_the_words_of_its_strategy_and_any_other_by_its_action(name: str) -> None:
    row = STRATEGIES[name]
    for action, text in row.labels.items():
        assert row.label(action, "a", (1, 2)) == text.replace("{ref}", "a").replace("{n}", "2")
    assert row.label("turn", "a", (1, 2)) == "turn a" and row.label("blend", None, (1, 2)) == "blend of 2"


@every_strategy
def test_help_and_recipe_have_each_option_of_a_strategy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    app, row = Typer(), STRATEGIES[name]
    register(app)
    said = " ".join(CliRunner().invoke(app, ["search", "--help"]).output.split())  # whatever the width
    assert f"{name} {row.summary}" in said
    for option in row.options:
        assert option.option in said and option.help in said
        assert option.key in SearchEntry.model_fields
    entry = SearchEntry(ingredients=["a", "b"], task=["digits"], search=name)
    assert entry.options().settled == row.settle({})


def test_listing_strategies_loads_no_torch() -> None:
    program = "import sys; from soupkit.search import STRATEGIES; print(*STRATEGIES); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.split() == list(STRATEGIES), done.stderr


def test_an_option_is_read_from_text_or_refused_with_its_name() -> None:
    budget, _ = own_options()["budget"]
    assert budget.read("7") == budget.read(7) == budget.read(7.0) == 7
    for value, words in (("x", "no whole number"), (0, "out of bounds"), (1.5, "no whole number"), (True, "no whole")):
        with pytest.raises(UsageError, match=f"--budget: .*{words}"):
            budget.read(value)
    blocks, _ = own_options()["blocks"]
    assert blocks.read("a*") == ("a*",) and blocks.read(["a*", "b"]) == ("a*", "b")
    flag = StrategyOption("fast", bool, False, "quick")
    assert flag.read("yes") is True and flag.read("off") is False
    with pytest.raises(UsageError, match="--fast: 'maybe' is neither"):
        flag.read("maybe")
    choice = StrategyOption("how", str, "a", "which", choices=("a", "b"))
    with pytest.raises(UsageError, match="--how: 'c' is no choice"):
        choice.read("c")


def test_options_are_checked_against_the_strategy() -> None:
    assert SearchOptions("weights", budget="7", blocks="visual.*").settled == {
        "budget": 7, "blocks": ("visual.*",), "proxy": 0,
    }  # fmt: skip
    SearchOptions("swap", orders=1, budget=100).check()  # what says nothing is no error
    with pytest.raises(UsageError, match="--orders: the strategy swap does not take it"):
        SearchOptions("swap", orders=2).check()
    with pytest.raises(UsageError, match="has no option 'depth'"):
        SearchOptions("weights", depth=2).check()
    with pytest.raises(UsageError, match="did you mean weights"):
        SearchOptions("weigths").check()


def test_settings_of_earlier_versions_are_of_the_same_search() -> None:
    earlier = {"strategy": "swap", "orders": 1, "stopping": "exact", "error_rate": 0.05, "accept": "ge", "seed": 0,
               "keep_going": False}  # fmt: skip
    now = json.loads(json.dumps(SearchOptions("swap").deciding()))
    assert same_options(earlier, now) and "orders" not in now
    assert not same_options({**earlier, "seed": 1}, now)
    mixed = {**earlier, "strategy": "weights", "budget": 100, "blocks": ["visual.*"]}
    assert same_options(mixed, json.loads(json.dumps(SearchOptions("weights", blocks=["visual.*"]).deciding())))
    assert not same_options(mixed, json.loads(json.dumps(SearchOptions("weights").deciding())))


def test_a_recipe_says_all_that_the_command_says() -> None:
    least = SearchEntry(ingredients=["a", "b"], task="digits")
    assert least.options() == SearchOptions() and least.task == ["digits"]
    shared = {"stopping": "none", "error_rate": 0.1, "accept": "gt", "seed": 3, "keep_going": True}
    entry = SearchEntry(ingredients=["a", "b"], task="digits", search="weights", block="visual.*", budget=7, **shared)
    assert entry.options() == SearchOptions("weights", blocks=("visual.*",), budget=7, **shared)
    again = SearchEntry.model_validate(entry.model_dump(mode="json"))
    assert again.options().deciding() == entry.options().deciding()


@pytest.mark.parametrize(
    ("given", "key", "words"),
    [
        ({"search": "weights", "budget": 0}, ("budget",), "greater than or equal to 1"),
        ({"search": "experts", "correlation": 2}, ("correlation",), "less than or equal to 1"),
        ({"search": "random"}, ("search",), "no search strategy 'random'"),
        ({"search": "swap", "orders": 3}, (), "--orders: the strategy swap does not take it"),
        ({"option": {"depth": 3}}, (), "has no option 'depth'"),
        ({"depth": 3}, ("depth",), "not permitted"),
    ],
)
def test_what_a_recipe_gets_wrong_is_named(given: dict[str, Any], key: tuple[str, ...], words: str) -> None:
    with pytest.raises(ValidationError, match=words) as caught:
        SearchEntry(ingredients=["a", "b"], task="digits", **given)
    assert caught.value.errors()[0]["loc"] == key


def test_the_package_is_called_as_the_function_of_its_name(tmp_path: Path) -> None:
    assert soupkit.search.SearchOptions is SearchOptions
    with pytest.raises(UsageError, match="--task: names no task"):
        soupkit.search(["a", "b"], tmp_path / "soup", tasks=[])


STRANGER = """
from soupkit.search import Strategy, StrategyOption
from soupkit.search.candidate import uniform

def first_ones(trials, order, *, count, careful):
    trials.state(count=count, careful=careful)
    best = trials.start(uniform(order[:1]))
    return trials.trial(best, uniform(order[:count]), "take", None) or best

ROW = Strategy("first_ones", first_ones, "average the best ones", options=(
    StrategyOption("count", int, 2, "how many", low=1), StrategyOption("careful", bool, False, "whether to think")))
"""


def test_a_strategy_of_another_package_is_told_its_options_by_the_command_and_by_a_recipe(
    tiny_clips: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "strange.py").write_text(STRANGER)
    info = tmp_path / "strange-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strange\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[soupkit.strategies]\nfirst_ones = strange:ROW\n")
    refs = [str(path) for path in tiny_clips[:3]]
    program = f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
from soupkit.__main__ import main
from soupkit.search import SearchEntry
entry = SearchEntry(ingredients=["a", "b"], task="digits", search="first_ones", option={{"count": 3}})
assert entry.options().settled == {{"count": 3, "careful": False}}
sys.argv = ["soupkit", "search", *{refs!r}, "--task", "digits", "--limit", "20", "--device", "cpu", "--no-cache",
            "--strategy", "first_ones", "--option", "count=3", "--option", "careful=yes", "--json", "-o", "soup"]
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["facts"] == {"count": 3, "careful": True}
    assert [d["action"] for d in document["decisions"]] == ["start", "take"]
    assert Strategy is type(STRATEGIES["greedy"])


def test_the_documentation_shows_the_table() -> None:
    text = (Path(__file__).parents[2] / "docs/search.md").read_text("utf-8")
    shown = text.partition("<!-- strategies -->\n")[2].partition("<!-- end of strategies -->")[0]
    assert shown.strip() == as_markdown(), "docs/search.md: put there what soupkit.search's as_markdown() returns"
