"""`greedy_search` on real models: the same soup by every rule, the written file is what was scored, bad input."""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import soupkit
from soupkit.errors import ArchitectureError, CheckpointError, DataError, SoupkitError, StorageError, UsageError
from soupkit.evaluation import EvaluationOptions
from soupkit.search import SearchOptions, greedy_search
from soupkit.search.scoring import Scorer
from tests.conftest import bytes_of

WEIGHTS = "open_clip_model.safetensors"


@pytest.fixture
def search(fine_tunes: list[Path], cache: Path, tmp_path: Path) -> Any:
    """Run a search over the fine-tunes on 150 of the digits' validation images."""

    def run(name: str = "soup", refs: list[Path] | None = None, **options: Any) -> soupkit.search.SearchResult:
        chosen = {k: options.pop(k) for k in list(options) if hasattr(SearchOptions(), k)}
        evaluation = EvaluationOptions(cache=cache, limit=150, batch_size=16, device="cpu")
        given = {"tasks": ["digits"], "evaluation": evaluation, **options}
        return greedy_search(refs or fine_tunes, tmp_path / name, search=SearchOptions(**chosen), **given)

    return run


@pytest.mark.parametrize("strategy", ["greedy", "backward", "swap"])
def test_exact_finds_the_same_soup_as_none_with_fewer_images(search: Any, strategy: str) -> None:
    none = search("none", strategy=strategy, stopping="none").document
    exact = search("exact", strategy=strategy, stopping="exact").document
    assert none["selected"] == exact["selected"]
    assert none["score"]["fingerprint"] == exact["score"]["fingerprint"]
    assert [d["decision"] for d in none["decisions"]] == [d["decision"] for d in exact["decisions"]]
    rejected = sum(d["decision"] == "rejected" for d in none["decisions"])
    fewer = sum(d["images"] for d in none["decisions"]) - sum(d["images"] for d in exact["decisions"])
    assert fewer > 0 or rejected <= 2  # a single loss on the last images is certain no sooner


def test_the_soup_is_what_merge_writes_and_scores_what_evaluate_says(
    search: Any, fine_tunes: list[Path], cache: Path, tmp_path: Path
) -> None:
    found = search(report_tasks=["digits"]).document
    again = tmp_path / "again"
    soupkit.merge(found["selected"], again) if len(found["selected"]) > 1 else shutil.copytree(
        found["selected"][0], again
    )
    assert load_equal(tmp_path / "soup" / WEIGHTS, again / WEIGHTS)
    options = EvaluationOptions(cache=cache, limit=150, batch_size=16, device="cpu", scores=False)
    refs = [tmp_path / "soup", *fine_tunes]
    scored = soupkit.evaluate(refs, ["digits:val"], options=options).scores
    assert found["score"]["value"] == scored[0].value
    assert found["score"]["fingerprint"] == scored[0].fingerprint
    assert [s["value"] for s in found["ingredients"]] == [s.value for s in scored[1:]]
    assert found["best_ingredient"]["value"] == max(s.value for s in scored[1:]) <= found["score"]["value"]
    test = soupkit.evaluate([tmp_path / "soup"], ["digits"], options=options).scores[0]
    assert found["report"][0]["value"] == test.value
    assert json.loads((tmp_path / "soup/soup.json").read_text())["output"]["fingerprint"] == scored[0].fingerprint
    assert not (tmp_path / "soup.partial").exists()


def load_equal(one: Path, other: Path) -> bool:
    a, b = load_file(one), load_file(other)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_several_tasks_select_by_their_mean_and_shared_images_are_said(search: Any) -> None:
    found = search(tasks=["digits:val", "digits:test"], report_tasks=["digits:test"], refs=None).document
    parts = found["score"]["metrics"]
    assert found["score"]["value"] == pytest.approx(sum(parts.values()) / 2)
    assert found["score"]["n"] == 300
    assert found["optimistic"]
    assert any("shares 150 images" in note for note in found["notes"])


def test_a_search_whose_best_soup_is_one_ingredient_says_why(search: Any, fine_tunes: list[Path]) -> None:
    result = search(refs=[fine_tunes[0], fine_tunes[-1]], accept="gt")
    assert result.document["selected"] == [str(fine_tunes[0])]
    assert "alone" in result.document["why"] and fine_tunes[-1].name in result.document["why"]
    assert "apart, relative" in result.document["why"]
    assert load_equal(result.output / WEIGHTS, fine_tunes[0] / WEIGHTS)


def test_a_finished_search_is_recognised_and_another_one_is_not_overwritten(search: Any, tmp_path: Path) -> None:
    first = search()
    before = bytes_of(tmp_path / "soup")
    assert search().status == "unchanged"
    with pytest.raises(StorageError, match="another soup"):
        search(seed=1)
    assert bytes_of(tmp_path / "soup") == before
    assert search(seed=1, fresh=True).document["selected"] == first.document["selected"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(StorageError, match="not a soup"):
        search("mine", fresh=True)


def test_dry_run_scores_and_writes_nothing(search: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scorer, "_learn", None)
    result = search(dry_run=True)
    assert result.status == "planned" and result.document["images"] == 300
    assert list(tmp_path.iterdir()) == []


def interrupted_after(blocks: int, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[int, ...]]]:
    """Let every search stop after `blocks` blocks of images; returns what is scored, as it happens."""
    learn, scored = Scorer._learn, []

    def counting(self: Scorer, members: Any, known: Any, images: Any) -> None:
        if len(images):
            if len(scored) == blocks:
                raise KeyboardInterrupt
            learn(self, members, known, images)
            scored.append((self.key(members), tuple(images.tolist())))

    monkeypatch.setattr(Scorer, "_learn", counting)
    return scored


def test_a_search_that_is_stopped_anywhere_goes_on_and_scores_nothing_twice(
    search: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {
        "evaluation": EvaluationOptions(cache=tmp_path / "cache", limit=60, batch_size=16, device="cpu", scores=False)
    }
    whole = search("whole", **options)
    every: list[tuple[str, tuple[int, ...]]] = []
    while not (tmp_path / "soup").exists():
        with monkeypatch.context() as patch:
            scored = interrupted_after(7, patch)
            with suppress(KeyboardInterrupt):
                resumed = search("soup", **options)
            every += scored
    assert len(every) > 14  # it was stopped more than once
    pairs = [(key, image) for key, images in every for image in images]
    assert len(pairs) == len(set(pairs))
    for field in ("selected", "decisions", "images_scored", "images_full"):
        assert resumed.document[field] == whole.document[field]


def test_a_journal_of_another_search_is_refused_and_a_torn_line_is_cut_off(
    search: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupted_after(3, patch)
        with pytest.raises(KeyboardInterrupt):
            search(evaluation=EvaluationOptions(cache=tmp_path / "c", limit=20, batch_size=8, device="cpu"))
    same = {"evaluation": EvaluationOptions(cache=tmp_path / "c", limit=20, batch_size=8, device="cpu")}
    with pytest.raises(StorageError, match="another search: other options"):
        search(accept="gt", **same)
    with pytest.raises(StorageError, match="other tasks"):
        search(tasks=["digits:test"], **same)
    journal = tmp_path / "soup.partial/journal.jsonl"
    with journal.open("a") as file:
        file.write('{"n": 0, "acti')
    for bits in (tmp_path / "soup.partial/hits").iterdir():
        with bits.open("ab") as file:
            file.write(b"torn")
    assert search(**same).status == "written"


def test_what_cannot_be_searched_is_refused_before_anything_is_scored(
    search: Any, fine_tunes: list[Path], tiny_clips: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scorer, "_learn", None)
    copy = tmp_path / "copy"
    shutil.copytree(fine_tunes[0], copy)
    one = fine_tunes[0]
    cases: list[tuple[dict[str, Any], type[SoupkitError], str]] = [
        ({"refs": [one]}, UsageError, "at least 2"),
        ({"refs": [one, one]}, UsageError, "twice"),
        ({"refs": [one, copy]}, UsageError, "same weights as"),
        ({"refs": [one, tiny_clips[0]]}, ArchitectureError, "tensors"),
        ({"tasks": []}, UsageError, "no task"),
        ({"tasks": ["digits:validation"]}, DataError, "no split 'validation'"),
        ({"strategy": "random"}, UsageError, "--strategy"),
        ({"stopping": "early"}, UsageError, "--stopping"),
        ({"error_rate": 1.5, "stopping": "sequential"}, UsageError, "--error-rate"),
        ({"orders": 3, "strategy": "swap"}, UsageError, "--orders"),
    ]
    for arguments, kind, words in cases:
        with pytest.raises(kind, match=words):
            search(**arguments)
    assert not (tmp_path / "soup").exists() and not (tmp_path / "soup.partial").exists()


def test_an_ingredient_with_nan_is_named_or_left_out(search: Any, fine_tunes: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(fine_tunes[1], broken)
    state = load_file(broken / WEIGHTS)
    state["visual.proj"] = state["visual.proj"].clone()
    state["visual.proj"][0, 0] = float("nan")
    save_file(state, broken / WEIGHTS)
    refs = [fine_tunes[0], broken, fine_tunes[2]]
    with pytest.raises(CheckpointError, match=r"broken.*visual\.proj"):
        search(refs=refs)
    result = search(refs=refs, keep_going=True)
    assert str(broken) not in [s["ref"] for s in result.document["ingredients"]]
    assert any("left out" in note for note in result.notes)


def test_orders_try_random_ones_too_and_never_find_less(search: Any) -> None:
    one, several = search("one").document, search("several", orders=3).document
    assert sum(d["action"] == "start" for d in several["decisions"]) == 3
    assert several["score"]["value"] >= one["score"]["value"]


def test_mixed_dtypes_are_summed_as_merge_sums_them(search: Any, fine_tunes: list[Path], tmp_path: Path) -> None:
    half = tmp_path / "half"
    shutil.copytree(fine_tunes[1], half)
    state = {k: v.bfloat16() if v.is_floating_point() else v for k, v in load_file(half / WEIGHTS).items()}
    save_file(state, half / WEIGHTS)
    result = search(refs=[half, fine_tunes[0], fine_tunes[3]])  # which checks the file against the live parameters
    assert result.status == "written"
