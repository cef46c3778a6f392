"""What a run remembers of its steps."""

import json
from pathlib import Path

import pytest

from soupkit.recipe.run_directory import RunState, read_state, write_state


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    state = RunState(steps={"train.a": "1"}, begun={"soup.b": "2"})
    write_state(tmp_path, state)
    assert read_state(tmp_path) == state
    assert json.loads((tmp_path / "run.json").read_text()) == {
        "schema": 1, "steps": {"train.a": "1"}, "begun": {"soup.b": "2"},
    }  # fmt: skip


def test_one_of_an_earlier_soupkit_is_read(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"schema": 1, "steps": {"evaluate": "x"}}')
    assert read_state(tmp_path) == RunState(steps={"evaluate": "x"})


@pytest.mark.parametrize("content", ["", "[]", "{", '{"steps": 3}', '{"steps": {"a": [1]}}', "[" * 100_000])
def test_nothing_is_remembered_of_what_cannot_be_read(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    assert read_state(tmp_path) == RunState(steps={})
    assert read_state(tmp_path / "nowhere") == RunState(steps={})
