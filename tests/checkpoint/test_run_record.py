"""The record of a training run: written and read back, of an older soupkit, damaged, or another program's."""

import json
from pathlib import Path
from typing import Any

import pytest

from soupkit.checkpoint.run_record import (
    FinishedRun,
    OutputRecord,
    RunRecord,
    SourceRecord,
    read_run,
    record_of,
    write_run,
)
from soupkit.errors import CheckpointError

SOURCE = SourceRecord(place="/data/0.tar", samples=7, files=1, bytes=99, digest="ab")
FINISHED = FinishedRun(
    soupkit="0.1.0",
    identity={"lr": 1e-3},
    data=(SOURCE,),
    machine={"device": "CPU", "threads": 2, "ranks": 1},
    entry={"lr": 1e-3},
    lineage=("xxh3:a", "xxh3:b"),
    samples=96,
    output=OutputRecord(fingerprint="xxh3:c"),
)


@pytest.mark.parametrize("record", [RunRecord(soupkit="0.1.0", identity={"lr": 1}), FINISHED])
def test_what_is_written_is_read_back(tmp_path: Path, record: RunRecord) -> None:
    write_run(tmp_path, record)
    assert read_run(tmp_path) == record and type(read_run(tmp_path)) is type(record)
    assert json.loads((tmp_path / "training.json").read_text())["schema"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["training.json"]


def test_a_config_with_half_a_pair_of_surrogates_is_written_and_read(tmp_path: Path) -> None:
    record = RunRecord(identity={"config": {"name": "\ud800 ü"}})
    write_run(tmp_path, record)
    assert read_run(tmp_path) == record


def test_a_finished_record_says_what_is_none(tmp_path: Path) -> None:
    write_run(tmp_path, FINISHED)
    document = json.loads((tmp_path / "training.json").read_text())
    assert document["parent"] is None and document["loss"] is None


def test_a_record_with_fewer_or_more_keys_is_read(tmp_path: Path) -> None:
    older = {"lineage": ["xxh3:a"], "output": {"fingerprint": "xxh3:c"}, "of_a_later_one": [1]}
    (tmp_path / "training.json").write_text(json.dumps(older))
    record = read_run(tmp_path)
    assert isinstance(record, FinishedRun) and record.lineage == ("xxh3:a",) and record.data is None


@pytest.mark.parametrize("part", ["", "ema", "samples=10", "open_clip_model.safetensors"])
def test_every_part_of_a_run_has_the_record_of_the_run(tmp_path: Path, part: str) -> None:
    write_run(tmp_path / "run", FINISHED)
    for name in ("ema", "samples=10"):
        (tmp_path / "run" / name).mkdir()
    (tmp_path / "run" / "open_clip_model.safetensors").touch()
    assert record_of(tmp_path / "run" / part) == FINISHED
    assert record_of(tmp_path / "run" / "other") is None and record_of(tmp_path) is None


DAMAGED: dict[str, Any] = {
    "empty": b"",
    "cut short": b'{"identity": {',
    "no text": b"\xff\xfe\x00",
    "a list": b"[1]",
    "a number": b"1",
    "nested": b"[" * 100_000,
    "an output of another kind": b'{"output": 5, "lineage": []}',
    "a lineage of another kind": b'{"output": {"fingerprint": "a"}, "lineage": {"a": 1}}',
    "counts of another kind": b'{"output": {"fingerprint": "a"}, "lineage": [], "samples": "many"}',
    "a later schema": b'{"schema": 2, "identity": {}}',
    "a huge number": b'{"schema": ' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_what_is_no_record_is_said_with_its_file_and_is_no_descent(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "training.json").write_bytes(content)
    with pytest.raises(CheckpointError, match="no record of a training run") as caught:
        read_run(tmp_path)
    assert caught.value.where == str(tmp_path / "training.json") and caught.value.hint
    assert record_of(tmp_path) is None
