"""A disk on which a read or a write fails, or that is full: the command says so, or does without; never is there
another result. Run again on a sound disk, it ends as if nothing had been. `scripts/kill_points.py --faults` tries all
calls of all commands."""

from pathlib import Path

import pytest

from tests.faults.points import ERRORS, check
from tests.kills.commands import COMMANDS
from tests.kills.points import Place

# At how many calls of each command, spread evenly.
CALLS = {"merge": 3, "evaluate": 1, "train": 1, "push --folder, over another": 2}


@pytest.mark.parametrize("name", CALLS)
def test_a_disk_that_fails_never_leads_to_another_result(name: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    tried, failures = check(COMMANDS[name](root), Place(root), ERRORS, CALLS[name])
    assert not failures, "\n".join(failures)
    assert tried == len(ERRORS) * CALLS[name]
