"""`methods`: each merge method is tried with its defaults, then beside them; what is written is what merge writes."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

import soupkit
from soupkit.errors import UsageError
from soupkit.evaluation import EvaluationOptions
from soupkit.merging.parameters import resolve
from soupkit.merging.registry import METHODS
from soupkit.search.candidate import SearchInputs, by_method
from soupkit.search.hit_score import hit_metric
from soupkit.search.strategies.methods import box_of, grid, numbers_of, try_methods
from soupkit.search.strategies.table import STRATEGIES
from tests.search.tables import Tables


def pool(seed: int, rule: str = "none") -> Tables:
    generator = np.random.default_rng(seed)
    margins = generator.normal(0.2, 1, 300) + generator.normal(0, 0.8, (4, 300))
    return Tables(margins, hit_metric(["acc1"], [np.zeros(300, np.int64)]), rule, seed=seed)


@pytest.mark.parametrize("name", list(METHODS))
def test_the_grid_of_a_method_is_what_merge_takes_and_no_default(name: str) -> None:
    method = METHODS[name]
    points = list(grid(method))
    for given in points:
        for key, value in given.items():
            parameter = method.parameters[key]
            assert value != parameter.default
            assert (parameter.bounds is None or value in parameter.bounds) and key not in ("seed", "steps")
    assert len(points) == len({tuple(sorted(p.items())) for p in points})
    for parameter in numbers_of(method).values():
        box = box_of(parameter)
        assert parameter.bounds is not None and parameter.bounds.low <= box.low < box.high <= parameter.bounds.high
        assert box.low <= parameter.default <= box.high  # type: ignore[operator]


def test_every_method_that_applies_is_tried_with_its_defaults_and_the_best_one_is_tuned() -> None:
    trials = pool(1)
    best = try_methods(trials, trials.order(), budget=60, tune=12)
    names = [m["method"] for m in trials.facts["methods"]]
    assert names == [
        m.name for m in METHODS.values() if m.ingredients[1] is None and m.name != "linear" and not m.files
    ]
    assert trials.trials <= 72 and {"merge", "tune"} == trials.actions
    assert best.worth == max(trials.worth(soup) for soup in [*trials.soups, *trials.scored])
    tried = {soup.use.method for soup in trials.soups if soup.use is not None}
    assert tried == set(names)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if numbers_of(method) and not method.files])
def test_cma_es_takes_the_continuous_parameters_of_any_method(name: str) -> None:
    method, trials = METHODS[name], pool(2)
    try_methods(trials, trials.order(), budget=1, methods=(name,), tune=30)
    tuned = [soup.parameters for soup in trials.soups if soup.use is not None and soup.parameters]
    assert len(tuned) >= 10 and all(set(given) == set(numbers_of(method)) for given in tuned)
    for key in numbers_of(method):
        assert len({given[key] for given in tuned}) >= 5, "each of them is varied"
    for given in tuned:
        resolve(method, given, ["visual.proj"], 4)


def test_what_cma_es_leaves_alone_says_how_a_method_computes_or_is_a_weight_of_an_ingredient() -> None:
    fixed = {
        (name, key)
        for name, method in METHODS.items()
        for key, parameter in method.parameters.items()
        if parameter.kind is float and key not in numbers_of(method) and not key.startswith("lines")
    }
    assert {key for _, key in fixed} == {"weight", "epsilon", "floor", "rate", "tolerance"}


@pytest.mark.parametrize("seed", range(4))
def test_a_rule_that_ends_trials_early_changes_nothing_of_it(seed: int) -> None:
    found = [try_methods(pool_, pool_.order(), budget=50) for pool_ in (pool(seed), pool(seed, "exact"))]
    assert found[0].soup == found[1].soup


def test_methods_that_cannot_merge_these_ingredients_are_refused_by_name() -> None:
    row = STRATEGIES["methods"]
    inputs = SearchInputs(("a", "b", "c"))
    for name, words in (("ties", "needs a base"), ("slerp", "takes 2 ingredients"), ("linear", "no default for weight"),
                        ("monosoup", "takes 1 ingredients"), ("tise", "did you mean ties")):  # fmt: skip
        with pytest.raises(UsageError, match=words):
            row.check_inputs(inputs, row.settle({"methods": name}))
    row.check_inputs(inputs, row.settle({}))


def test_a_number_has_the_digits_that_are_read() -> None:
    soup = by_method((0, 1), "ties", {"scale": 0.123456, "density": 0.2}, base=True)
    assert soup.parameters == {"density": 0.2, "scale": 0.1235} and soup.has_base and soup.method == "ties"
    assert by_method((0,), "nearswap", {"t": 0.000123456}, base=True).parameters == {"t": 0.0001235}


def test_the_soup_of_a_method_is_what_merge_writes_and_scores_what_its_file_scores(
    points: list[Path], tmp_path: Path
) -> None:
    goal = {name: tensor.double() for name, tensor in load_file(tmp_path / "centre.safetensors").items()}

    def nearness(state: Mapping[str, Tensor]) -> float:
        return -sum(float(((state[name].double() - goal[name]) ** 2).sum()) for name in goal)

    # A base that is no ingredient: far from the goal, from which the ingredients went towards it.
    base = tmp_path / "base.safetensors"
    save_file({name: (tensor * 0.8).float() for name, tensor in goal.items()}, base)
    document = soupkit.search(
        points[:3], tmp_path / "soup", base=base, score=nearness, strategy="methods", budget=12, tune=5,
        methods=["task_arithmetic", "ties", "magmax"], evaluation=EvaluationOptions(device="cpu", cache=tmp_path / "c"),
    ).document  # fmt: skip
    assert document.methods is not None
    assert [m.method for m in document.methods] == ["task_arithmetic", "ties", "magmax"]
    assert [d.action for d in document.decisions] == ["start"] + 12 * ["merge"] + 5 * ["tune"]
    assert document.score.value == max(d.value for d in document.decisions if d.value is not None)
    best = max(document.methods, key=lambda m: m.value)
    assert (document.method, document.parameters, document.base) == (best.method, best.parameters, str(base))
    merged = tmp_path / "merged"
    soupkit.merge(points[:3], merged, method=best.method, base=base, parameters=best.parameters)
    (one,), (other,) = (path.glob("*.safetensors") for path in (merged, tmp_path / "soup"))
    assert one.read_bytes() == other.read_bytes()
    assert document.score.value == pytest.approx(nearness(load_file(other)))
