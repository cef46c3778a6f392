"""`greedy_search` on real models: the same soup by every rule, the written file is what was scored, bad input."""

import json
import re
import resource
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import soupkit
from soupkit.cli.search_output import show_search
from soupkit.errors import StorageError, UsageError
from soupkit.evaluation import EvaluationOptions, Evaluator
from soupkit.search.hits_file import HitsFile
from soupkit.search.journal import Journal
from soupkit.search.strategies.table import STRATEGIES
from soupkit.search.time_left import TimeLeft, duration
from tests.conftest import bytes_of
from tests.search.conftest import Told, small

WEIGHTS = "open_clip_model.safetensors"


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_exact_finds_the_same_soup_as_none_with_no_more_images(
    search: Any, fine_tunes: list[Path], cache: Path, strategy: str
) -> None:
    evaluation = EvaluationOptions(cache=cache, limit=48, batch_size=8, device="cpu")
    tasks = ["digits:val", "digits:test"]
    options = {"refs": fine_tunes[:4], "tasks": tasks, "evaluation": evaluation, **small(strategy)}
    none = search("none", strategy=strategy, stopping="none", **options).document.to_dict()
    exact = search("exact", strategy=strategy, stopping="exact", **options).document.to_dict()
    assert none["selected"] == exact["selected"]
    assert none["score"]["fingerprint"] == exact["score"]["fingerprint"]
    assert [d["decision"] for d in none["decisions"]] == [d["decision"] for d in exact["decisions"]]
    assert sum(d["images"] for d in exact["decisions"]) <= sum(d["images"] for d in none["decisions"])


def test_the_soup_is_what_merge_writes_and_scores_what_evaluate_says(
    search: Any, fine_tunes: list[Path], cache: Path, tmp_path: Path
) -> None:
    found = search(report_tasks=["digits"]).document.to_dict()
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


def test_several_tasks_select_by_their_mean_and_shared_images_are_said(
    search: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = search(tasks=["digits:test", "digits:train"], report_tasks=["digits:test"], refs=None)
    found = result.document.to_dict()
    parts = found["score"]["metrics"]
    assert found["score"]["value"] == pytest.approx(sum(parts.values()) / 2)
    assert found["score"]["n"] == 300
    assert found["optimistic"]
    assert any("shares 150 images" in note for note in found["notes"])
    monkeypatch.setenv("COLUMNS", "200")
    show_search(result)
    assert "mean of digits:test, digits:train:several, selects" in capsys.readouterr().out, "names hold no emoji"


def test_a_search_whose_best_soup_is_one_ingredient_says_why(search: Any, fine_tunes: list[Path]) -> None:
    result = search(refs=[fine_tunes[0], fine_tunes[-1]], accept="gt")
    assert result.document.to_dict()["selected"] == [str(fine_tunes[0])]
    assert "alone" in result.document.to_dict()["why"] and fine_tunes[-1].name in result.document.to_dict()["why"]
    assert "apart, relative" in result.document.to_dict()["why"]
    assert load_equal(result.output / WEIGHTS, fine_tunes[0] / WEIGHTS)


def test_a_finished_search_is_recognised_and_another_one_is_not_overwritten(search: Any, tmp_path: Path) -> None:
    first = search()
    before = bytes_of(tmp_path / "soup")
    assert search().status == "unchanged"
    with pytest.raises(StorageError, match="another soup"):
        search(seed=1)
    assert bytes_of(tmp_path / "soup") == before
    assert search(seed=1, fresh=True).document.to_dict()["selected"] == first.document.to_dict()["selected"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(StorageError, match="not a soup"):
        search("mine", fresh=True)


def test_dry_run_scores_and_writes_nothing(search: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Evaluator, "hits", None)
    result = search(dry_run=True)
    assert result.status == "planned" and result.plan is not None
    assert result.plan.images == 150 and result.plan.most_trials == 5
    with pytest.raises(UsageError, match="finds nothing"):
        assert result.document
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "soup").mkdir()
    (tmp_path / "soup/notes.txt").write_text("mine")
    with pytest.raises(StorageError, match="not a soup"):
        search(dry_run=True)


def test_files_of_others_in_the_partial_directory_are_left_alone(search: Any, tmp_path: Path) -> None:
    partial = tmp_path / "soup.partial"
    partial.mkdir()
    (partial / "thesis.txt").write_text("mine")
    for how in ({}, {"fresh": True}, {"dry_run": True}):
        with pytest.raises(StorageError, match=r"'thesis\.txt', which no search wrote"):
            search(**how)
    assert [p.name for p in partial.iterdir()] == ["thesis.txt"]


def interrupted_after(blocks: int, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[int, ...]]]:
    """Let every search stop after `blocks` blocks of images; returns the files of hits and images, as they come."""
    hits, add, scored = Evaluator.hits, HitsFile.add, []

    def stopping(self: Evaluator, *arguments: Any) -> Any:
        if len(scored) == blocks:
            raise KeyboardInterrupt
        return hits(self, *arguments)

    def counting(self: HitsFile, images: np.ndarray, flags: np.ndarray) -> None:
        add(self, images, flags)
        scored.append((self.path.name, tuple(images.tolist())))

    monkeypatch.setattr(Evaluator, "hits", stopping)
    monkeypatch.setattr(HitsFile, "add", counting)
    return scored


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_a_search_that_is_stopped_anywhere_goes_on_and_scores_nothing_twice(
    search: Any, fine_tunes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    evaluation = EvaluationOptions(cache=tmp_path / "cache", limit=16, batch_size=8, device="cpu", scores=False)
    options = {
        "refs": fine_tunes[:3], "tasks": ["digits:val", "digits:test"], "strategy": strategy, **small(strategy),
        "evaluation": evaluation,
    }  # fmt: skip
    whole = search("whole", **options)
    every: list[tuple[str, tuple[int, ...]]] = []
    while not (tmp_path / "soup").exists():
        with monkeypatch.context() as patch:
            scored = interrupted_after(11, patch)
            with suppress(KeyboardInterrupt):
                resumed = search("soup", **options)
            every += scored
    assert len(every) > 11  # it was stopped
    pairs = [(key, image) for key, images in every for image in images]
    assert len(pairs) == len(set(pairs))
    written = [replace_seconds(result.document.to_dict()) for result in (resumed, whole)]
    assert written[0] == written[1]


def replace_seconds(document: dict[str, Any]) -> dict[str, Any]:
    """A document without what two runs of one search need not share: the time, and where the soup went."""
    return {**document, "seconds": None, "score": {**document["score"], "ref": None}}


def test_a_journal_of_another_search_is_refused_and_a_torn_line_is_cut_off(
    search: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupted_after(3, patch)
        with pytest.raises(KeyboardInterrupt):
            search(evaluation=EvaluationOptions(cache=tmp_path / "c", limit=20, batch_size=8, device="cpu"))
    same = {"evaluation": EvaluationOptions(cache=tmp_path / "c", limit=20, batch_size=8, device="cpu")}
    told = Told()
    assert search(dry_run=True, progress=told, **same).status == "planned"
    assert any("resuming: 1 ingredient and 0 trials are in the journal" in note for note in told.notes)
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


def test_progress_says_where_the_search_is_and_what_is_left_of_it(search: Any) -> None:
    told = Told()
    options = EvaluationOptions(limit=60, batch_size=16, device="cpu")
    found = search(progress=told, evaluation=options).document.to_dict()
    kept = [d for d in found["decisions"] if d["decision"] == "accepted" and d["action"] != "start"]
    said = [note for note in told.notes if note.startswith("accepted")]
    assert said == [f"accepted, {100 * d['value']:.2f} %: the soup of {', '.join(d['soup'])}" for d in kept]
    labels = [label for label in told.labels if label.startswith("trial")]
    assert [label.partition(",")[0] for label in labels] == [f"trial {n} of 5" for n in range(1, 6)]
    assert all(re.search(r", soup of \d at \d+\.\d\d %: adding .*, about .* left in all$", label) for label in labels)


def test_time_left_counts_the_trials_to_come_and_what_is_scored_after_them(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("soupkit.search.time_left.time.monotonic", lambda: now)
    time_left = TimeLeft(images=100, after=50)
    assert time_left.left() == "" and time_left.trial == "trial 1 of 1"
    time_left.begin(0)
    now = 10.0
    time_left.end(100, trial=False)  # an ingredient: 10 images a second
    time_left.expect(5)
    assert time_left.left() == ", about 55 s left in all"
    time_left.begin(100)
    now = 14.0
    time_left.end(140)  # a trial that ended after 40 images
    assert time_left.trial == "trial 2 of 5" and time_left.left() == ", about 21 s left in all"
    time_left.begin(140)
    time_left.end(140)  # one whose hits were known
    assert time_left.trial == "trial 3 of 5" and time_left.left() == ", about 17 s left in all"
    assert [duration(s) for s in (12.4, 89, 90, 5100, 7300)] == ["12 s", "89 s", "2 min", "85 min", "2 h 2 min"]


def test_orders_try_random_ones_too_and_never_find_less(search: Any) -> None:
    one, several = search("one").document.to_dict(), search("several", orders=3).document.to_dict()
    assert sum(d["action"] == "start" for d in several["decisions"]) == 3
    assert several["score"]["value"] >= one["score"]["value"]


def test_mixed_dtypes_are_summed_as_merge_sums_them(search: Any, fine_tunes: list[Path], tmp_path: Path) -> None:
    half = tmp_path / "half"
    shutil.copytree(fine_tunes[1], half)
    state = {k: v.bfloat16() if v.is_floating_point() else v for k, v in load_file(half / WEIGHTS).items()}
    save_file(state, half / WEIGHTS)
    result = search(refs=[half, fine_tunes[0], fine_tunes[3]])  # which checks the file against the live parameters
    assert result.status == "written"


def test_nothing_is_believed_of_what_was_written_when_the_disk_filled(tmp_path: Path) -> None:
    def open_both() -> tuple[Journal, HitsFile]:
        return Journal(tmp_path / "journal", {"seed": 0}, writes=True), HitsFile(tmp_path / "hits", 99, writes=True)

    journal, known = open_both()
    known.add(np.arange(9), np.ones(9, np.uint8))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    room = 8 + max((tmp_path / name).stat().st_size for name in ("journal", "hits"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))  # a write goes as far as it can, as on a full disk
    try:
        with pytest.raises(StorageError, match="cannot be written"):
            journal.record({"soup": "x" * 500})
        with pytest.raises(StorageError, match="cannot be written"):
            known.add(np.arange(9, 99), np.ones(90, np.uint8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    journal, known = open_both()
    assert journal.done == 0 and known.known.sum() == 9
    journal.record({"soup": "y"})
    known.add(np.arange(9, 12), np.ones(3, np.uint8))
    journal, known = open_both()
    assert journal.done == 1 and known.known.sum() == 12
