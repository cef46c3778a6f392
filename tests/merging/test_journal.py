"""The journal of a merge: what is written is read again, and what a kill cut short does no harm."""

from pathlib import Path

import pytest

from soupkit.errors import StorageError
from soupkit.merging.journal import Journal, SlabResult, read_journals
from soupkit.merging.plan import Segment, Slab, TensorPlan

TENSOR = TensorPlan("visual.proj", "F32", (100,), 100, ("F32",), None, {}, True)
SLABS = [Slab((Segment(TENSOR, 10 * i, 10 * i + 10),)) for i in range(3)]
RESULTS = [SlabResult((((bytes([i]) * 16,), (bytes([i + 100]) * 16,)),)) for i in range(3)]


def write(directory: Path, rank: int, numbers: list[int], plan: str = "a plan") -> Path:
    journal = Journal(directory, rank, plan)
    journal.open()
    for i in numbers:
        journal.record(SLABS[i], RESULTS[i])
    journal.close()
    journal.close()
    return directory / f"journal-{rank}.jsonl"


def test_finished_slabs_of_all_ranks_are_read_again(tmp_path: Path) -> None:
    write(tmp_path, 0, [0, 2])
    write(tmp_path, 1, [1])
    assert read_journals(tmp_path, "a plan") == {slab.key: r for slab, r in zip(SLABS, RESULTS, strict=True)}


@pytest.mark.parametrize("lost", range(1, 60, 7))
def test_a_line_cut_short_ends_its_journal_and_keeps_what_stands_before(tmp_path: Path, lost: int) -> None:
    path = write(tmp_path, 0, [0, 1])
    path.write_bytes(path.read_bytes()[:-lost])
    done = read_journals(tmp_path, "a plan")
    assert done[SLABS[0].key] == RESULTS[0]
    assert set(done) == ({SLABS[0].key, SLABS[1].key} if lost == 1 else {SLABS[0].key})


@pytest.mark.parametrize("text", [b"", b"\xff\xfe\n", b"[]\n", b"{}\n", b'{"plan": "a pl', b"null\n{}\n"])
def test_what_is_no_journal_tells_nothing(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "journal-0.jsonl").write_bytes(text)
    write(tmp_path, 1, [2])
    assert set(read_journals(tmp_path, "a plan")) == {SLABS[2].key}


def test_the_journal_of_another_merge_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, 0, [0], plan="another plan")
    with pytest.raises(StorageError, match="other inputs or options"):
        read_journals(tmp_path, "a plan")


def test_a_journal_that_is_opened_again_begins_anew(tmp_path: Path) -> None:
    write(tmp_path, 0, [0, 1])
    write(tmp_path, 0, [2])
    assert set(read_journals(tmp_path, "a plan")) == {SLABS[2].key}


def test_a_journal_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"journal-0\.jsonl"):
        Journal(tmp_path / "nowhere", 0, "a plan").open()
