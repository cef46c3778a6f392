"""The contest of merge methods: its tasks, its pools, its choice on val, its tables."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.methods import contest, images
from benchmarks.methods.__main__ import ROOM
from benchmarks.methods.contest import Entrant, entrants
from benchmarks.methods.images import Task, read_task
from benchmarks.methods.pools import Pool, kept
from benchmarks.methods.statistics import Statistics
from benchmarks.methods.tables import holm, table
from benchmarks.methods.tower import Recipe, Tower, train
from soupkit.merging.registry import METHODS


@pytest.fixture(scope="module")
def task() -> Task:
    """Twelve images of three classes, which their brightness tells apart."""
    labels = torch.arange(12) % 3
    pictures = (labels.view(-1, 1, 1, 1) * 80 + torch.zeros(12, 3, images.SIDE, images.SIDE)).to(torch.uint8)
    return Task("bright", 3, *((pictures, labels),) * 3)


@pytest.fixture(scope="module")
def pool(task: Task) -> Pool:
    """A base and three fine-tunes of two steps each."""
    tower = Tower([3], 0)
    states = [{k: v.clone() for k, v in tower.state_dict().items()}]
    for seed in range(3):
        train(tower, {0: task.train}, Recipe(16, 1e-3, batch=8), seed)
        states.append({k: v.clone() for k, v in tower.state_dict().items()})
    return Pool((task,), states[0], tuple(states[1:]), tower)


def test_splits_share_no_image(tmp_path: Path) -> None:
    digits = read_task("digits", None, tmp_path)
    seen = [{image.numpy().tobytes() for image in part[0]} for part in (digits.train, digits.val, digits.test)]
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
    assert digits.classes == 10 and digits.train[0].shape[1:] == (3, images.SIDE, images.SIDE)
    again = read_task("digits", None, tmp_path)  # from what was kept
    assert all(torch.equal(a, b) for a, b in zip(digits.test, again.test, strict=True))


def test_missing_images_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"npm pack emoji-datasource-google@16\.0\.0"):
        read_task("google", tmp_path, tmp_path)


def test_training_learns_and_is_the_same_again(task: Task) -> None:
    towers = []
    for _ in range(2):
        tower = Tower([3], 1)
        train(tower, {0: task.train}, Recipe(480, 3e-3, batch=12), 1)
        towers.append(tower)
    pool = Pool((task,), {}, (), towers[0])
    assert pool.score(towers[0].state_dict(), "test") == 1.0
    one, other = (t.state_dict() for t in towers)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_every_method_with_defaults_takes_part() -> None:
    names = {entrant.name for entrant in entrants()}
    assert names == (set(METHODS) - {"linear"}) | {"task_arithmetic, lines"}


def test_parameters_are_chosen_on_val_and_scored_on_test(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scores = {0.4: {"val": 0.5, "test": 0.6}, 0.2: {"val": 0.7, "test": 0.3}, 0.8: {"val": 0.1, "test": 0.9}}
    merged = {}

    def merge(_: Pool, __: Entrant, parameters: Any, *___: Any) -> dict[str, float]:
        merged[parameters.get("scale", 0.4)] = None
        return {"scale": parameters.get("scale", 0.4)}

    monkeypatch.setattr(contest, "_merged", merge)
    monkeypatch.setattr(Pool, "score", lambda _, state, split: scores[state["scale"]][split])
    entrant = Entrant("a", METHODS["task_arithmetic"], {}, [{"scale": 0.2}, {"scale": 0.8}])
    outcome = contest._outcome(pool, entrant, [0], Statistics(pool, tmp_path))
    assert (outcome.val, outcome.test) == (0.5, 0.6)
    assert (outcome.chosen, outcome.chosen_val, outcome.chosen_test) == ({"scale": 0.2}, 0.7, 0.3)


def test_a_contest_scores_the_pool_and_its_soups(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    few = [
        e for e in entrants() if e.name in ("uniform", "slerp", "fisher", "regmean_plusplus", "task_arithmetic, lines")
    ]
    monkeypatch.setattr(contest, "entrants", lambda: few)
    document = contest.contest(pool)
    mean = {k: np.mean([s[k].double().numpy() for s in pool.ingredients], axis=0) for k in pool.base}
    uniform = pool.score({k: torch.from_numpy(np.asarray(v)).float() for k, v in mean.items()}, "test")
    assert document["methods"]["uniform"][1] == uniform
    assert set(document["methods"]) == {e.name for e in few}
    lines = table("bright", [document, document])
    assert sum(line.startswith("| `") for line in lines) == len(few)


def test_statistics_are_those_of_the_fine_tunes_on_their_own_images(pool: Pool, tmp_path: Path) -> None:
    statistics = Statistics(pool, tmp_path)
    state, name = pool.ingredients[1], "heads.0.weight"
    pool.load(state)
    images = pool.tasks[0].train[0]
    with torch.no_grad():
        features = pool.tower.visual(images.float().div(127.5).sub(1)).double().numpy()
    expected = features.T @ features / len(features)
    gram = load_file(statistics.files("gram")[1])[name]
    np.testing.assert_allclose(gram, expected, 1e-4, 1e-6 * np.abs(expected).max())
    head = torch.nn.functional.log_softmax(
        torch.from_numpy(features).float() @ state[name].T + state["heads.0.bias"], 1
    )
    fisher = load_file(statistics.files("fisher")[1])
    bound = (1 + head.exp()).square().max()  # of the squared gradient by a bias, (1[y = k] - p_k)^2
    assert fisher.keys() >= {name, "visual.blocks.0.attn.qkv.weight"} and 0 < fisher["heads.0.bias"].max() <= bound
    first = load_file(statistics.files("merged_gram")[1])["visual.blocks.0.attn.qkv.weight"]
    assert first.shape == (64, 64) and statistics.files("gram") is statistics.files("gram")


def test_pools_are_kept(pool: Pool, task: Task, tmp_path: Path) -> None:
    made = []

    def make() -> Pool:
        made.append(1)
        return pool

    for _ in range(2):
        again = kept(tmp_path / "pools/bright-1.pt", [task], make)
        assert all(torch.equal(again.base[n], pool.base[n]) for n in pool.base)
        assert again.score(again.ingredients[2], "test") == pool.score(pool.ingredients[2], "test")
    assert len(made) == 1


def test_holm_holds_what_is_below_its_own_share_of_the_level() -> None:
    assert holm({"a": 0.01, "b": 0.02, "c": 0.04, "d": 0.03}, 0.05) == {"a"}  # 0.02 is above 0.05 / 3
    assert holm({"a": 0.01, "b": 0.016, "c": 0.024, "d": 0.05}, 0.05) == {"a", "b", "c", "d"}
    assert holm({}) == set()


def test_the_room_names_its_subjects() -> None:
    assert [subject.name for subject in ROOM.subjects] == ["digits", "fashion", "tasks"]
    assert ROOM.parse(["digits", "--work", "w", "--seeds", "2"]).seeds == 2
