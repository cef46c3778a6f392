"""Parameters: from how a person writes them to what one tensor gets."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from soupkit.checkpoint.towers import depths
from soupkit.errors import UsageError
from soupkit.merging import merge
from soupkit.merging.parameters import resolve
from soupkit.merging.registry import METHODS

NAMES = [
    "visual.conv1.weight",
    *(f"visual.transformer.resblocks.{i}.ln_1.weight" for i in range(5)),
    "visual.proj",
    "token_embedding.weight",
    *(f"transformer.resblocks.{i}.ln_1.weight" for i in range(3)),
    "text_projection",
]


def alpha(value: Any) -> list[Any]:
    found = resolve(METHODS["interpolate"], {"alpha": value}, NAMES, 2)
    return [found[name]["alpha"] for name in NAMES]


def test_depth_runs_from_zero_to_one_in_each_tower() -> None:
    assert [depths(NAMES)[n] for n in NAMES] == [0, 0, 0.25, 0.5, 0.75, 1, 1, 0, 0, 0.5, 1, 1]


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("visual.trunk.blocks.{}.mlp.fc1.weight", 4),
        ("visual.layer{}.0.conv1.weight", 5),
        ("visual.trunk.stages.{}.blocks.weight", 4),
        ("text.transformer.resblocks.{}.ln_1.bias", 3),
    ],
)
def test_blocks_of_other_architectures_have_depths(name: str, names: int) -> None:
    found = depths([name.format(i) for i in range(1, names)])
    assert list(found.values())[-1] == 1 and list(found.values()) == sorted(found.values())


def test_a_number_holds_for_all_tensors() -> None:
    assert set(alpha(0.25)) == {0.25}


def test_a_default_holds_where_nothing_is_given() -> None:
    assert {v["alpha"] for v in resolve(METHODS["interpolate"], {}, NAMES, 2).values()} == {0.5}


def test_a_gradient_is_interpolated_over_depth() -> None:
    assert alpha({"gradient": [0.0, 1.0, 0.0]}) == [0, 0, 0.5, 1, 0.5, 0, 0, 0, 0, 1, 0, 0]


def test_the_first_pattern_that_matches_counts_and_the_default_fills_in() -> None:
    found = alpha({"visual.transformer.*": 0.1, "visual.*": 0.2})
    assert found[:7] == [0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.2] and set(found[7:]) == {0.5}


def test_patterns_may_hold_gradients_and_lists() -> None:
    value = {"visual.*": {"gradient": [0.0, 1.0]}, "*": [0.3, 0.4]}
    found = resolve(METHODS["task_arithmetic"], {"scale": value}, NAMES, 2)
    assert found["visual.proj"]["scale"] == (1.0, 1.0) and found["text_projection"]["scale"] == (0.3, 0.4)


@pytest.mark.parametrize(
    ("method", "given", "words"),
    [
        ("interpolate", {"alpa": 1}, "no parameter 'alpa'"),
        ("interpolate", {"alpha": 1.5}, "not between 0 and 1"),
        ("interpolate", {"alpha": "much"}, "not a number"),
        ("interpolate", {"alpha": float("nan")}, "not a number"),
        ("interpolate", {"alpha": [0.1, 0.2]}, "takes one value"),
        ("interpolate", {"alpha": {"nothing.*": 0.1}}, "matches no tensor"),
        ("interpolate", {"alpha": {"gradient": []}}, "gradient that is no list"),
        ("interpolate", {"alpha": {"gradient": [0, 3]}}, "not between"),
        ("task_arithmetic", {"scale": [1, 2, 3]}, "3 values for 2 ingredients"),
        ("linear", {}, "no default"),
        ("linear", {"weight": [1, -1]}, "which sum to zero"),
        ("linear", {"weight": [0.1, 0.2], "normalize": 0.5}, "neither true nor false"),
    ],
)
def test_what_makes_no_sense_is_refused(method: str, given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        resolve(METHODS[method], given, NAMES, 2)


def test_an_unknown_method_suggests_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        METHODS.find("unifrom")
    assert "uniform" in caught.value.hint


@pytest.mark.parametrize(
    ("value", "shares"),
    [
        ({"visual.*": 0.25, "*": 1.0}, {"visual.conv1.weight": 0.25, "visual.proj": 0.25, "text_projection": 1.0}),
        ({"gradient": [0.0, 1.0]}, {"visual.conv1.weight": 0.0, "visual.proj": 1.0, "transformer.resblocks.1.x": 0.5}),
    ],
    ids=["patterns", "gradient"],
)
def test_parameters_reach_the_tensors_they_are_meant_for(
    value: dict[str, Any], shares: dict[str, float], tmp_path: Path
) -> None:
    names = [
        "visual.conv1.weight",
        "visual.proj",
        "text_projection",
        *(f"transformer.resblocks.{i}.x" for i in range(3)),
    ]
    for place, number in (("base", 0.0), ("a", 4.0)):
        save_file({name: torch.full((2, 2), number) for name in names}, tmp_path / f"{place}.safetensors")
    base, a = tmp_path / "base.safetensors", tmp_path / "a.safetensors"
    merge([a], tmp_path / "soup", method="interpolate", base=base, parameters={"alpha": value})
    soup = load_file(tmp_path / "soup" / "model.safetensors")
    for name, share in shares.items():
        assert torch.equal(soup[name], torch.full((2, 2), 4.0 * share)), name


def test_each_ingredient_gets_its_own_number(tmp_path: Path) -> None:
    for place, number in (("base", 1.0), ("a", 2.0), ("b", 3.0)):
        save_file({"x": torch.full((2, 2), number)}, tmp_path / f"{place}.safetensors")
    refs = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    base, scale = tmp_path / "base.safetensors", {"scale": [0.5, 0.25]}
    merge(refs, tmp_path / "soup", method="task_arithmetic", base=base, parameters=scale)
    assert load_file(tmp_path / "soup" / "model.safetensors")["x"].unique().tolist() == [1 + 0.5 + 0.5]
