"""`weights` and `experts` on real models: what is written is what merge writes, and what is said of it is true."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

import soupkit
from soupkit.cli.merge import parse_parameters
from soupkit.evaluation import EvaluationOptions
from soupkit.evaluation.heads import HeadOptions
from soupkit.search.candidate import Soup, mixture, uniform
from soupkit.search.ingredients import Ingredients
from soupkit.search.merge_command import merge_command

WEIGHTS = "open_clip_model.safetensors"


@pytest.mark.parametrize("blocks", [(), ("visual.*",)])
def test_weights_never_end_below_the_greedy_soup_and_are_what_merge_writes(
    search: Any, fine_tunes: list[Path], cache: Path, tmp_path: Path, blocks: tuple[str, ...]
) -> None:
    refs, options = fine_tunes[:4], EvaluationOptions(cache=cache, limit=60, batch_size=20, device="cpu", scores=False)
    greedy = search("greedy", refs=refs, evaluation=options).document.to_dict()
    found = search(
        "weights", refs=refs, evaluation=options, strategy="weights", budget=12, blocks=blocks
    ).document.to_dict()
    soups = [tmp_path / "greedy", tmp_path / "weights"]
    before, after = soupkit.evaluate(soups, ["digits:val"], options=options).scores  # not what the search says
    assert after.value >= before.value and after.value == found["score"]["value"]
    tried = [d for d in found["decisions"] if d["action"] == "mix"]
    assert len(tried) == 12 and after.value == max(d["value"] for d in [*tried, {"value": before.value}])
    assert all(d["value"] > before.value for d in tried if d["decision"] == "accepted")
    assert {len(d["weights"]) for d in tried if isinstance(d["weights"], dict)} == ({2} if blocks else set())
    assert found["decisions"][: len(greedy["decisions"])] == greedy["decisions"]
    merged = tmp_path / "merged"
    soupkit.merge(found["selected"], merged, method="linear", parameters={"weight": found["weights"]})
    assert (merged / WEIGHTS).read_bytes() == (tmp_path / "weights" / WEIGHTS).read_bytes()
    assert any("12 mixtures were compared" in note for note in found["notes"])


def test_experts_are_grouped_mixed_and_given_their_shares(search: Any, fine_tunes: list[Path], cache: Path) -> None:
    options = EvaluationOptions(cache=cache, limit=40, batch_size=20, device="cpu")
    tasks = ["digits:val", "digits:test", "digits:train"]
    found = search(
        refs=fine_tunes[:4], tasks=tasks, evaluation=options, strategy="experts", correlation=1.0, budget=8
    ).document.to_dict()
    assert sorted(t for g in found["groups"] for t in g["tasks"]) == sorted(tasks)
    alone = {s["ref"]: s["metrics"] for s in found["ingredients"]}
    for group in found["groups"]:
        mean = {ref: sum(scores[t] for t in group["tasks"]) for ref, scores in alone.items()}
        assert mean[group["expert"]] == max(mean.values())
    experts = {g["expert"] for g in found["groups"]} | {found["best_ingredient"]["ref"]}
    assert set(found["selected"]) <= experts
    assert all(set(d["soup"]) <= experts for d in found["decisions"])
    shares = {s["ref"]: s["share"] for s in found["shapley"]["shares"]}
    assert list(shares) == found["selected"]
    assert sum(shares.values()) == pytest.approx(found["score"]["value"])
    assert found["shapley"]["scored"] == found["shapley"]["subsets"] == 2 ** len(shares) - 1
    assert found["score"]["value"] >= found["best_ingredient"]["value"]


@pytest.mark.parametrize("soup", [uniform([1, 0]), mixture([0, 1], {"*": [0.3, 0.7]}),
                                  mixture([0, 1], {"visual.*": [1, 0], "*": [0.25, 0.75]})])  # fmt: skip
def test_the_offered_command_says_what_merge_has_to_be_told(soup: Soup) -> None:
    pool = Ingredients(("a b", "c"), (), (), {}, (), ())
    words = shlex.split(merge_command(pool, soup, Path("to here"), HeadOptions("ViT-B-32")))
    assert words[:4] == ["soupkit", "merge", *(pool.refs[m] for m in soup.members)]
    assert words[-4:] == ["--model", "ViT-B-32", "-o", "to here"]
    weights = [float(words[i + 1]) for i, word in enumerate(words) if word == "--weight"]
    given = parse_parameters([words[i + 1] for i, word in enumerate(words) if word == "--param"])
    assert ({"weight": weights} if weights else given) == soup.parameters
    assert json.dumps(given) in ("{}", json.dumps(soup.parameters))
