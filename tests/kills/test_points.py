"""Killed before any of its calls that change which files there are, a command that runs again ends as if nothing had
been: the same bytes, nothing of the user's lost, nothing left over. `scripts/kill_points.py` tries all of them."""

from pathlib import Path

import pytest

from tests.kills.commands import COMMANDS, RANKS
from tests.kills.points import Place, check

# Of the points of each, spread evenly, and the last ones.
FEW = {"train": 8, "train --fresh": 4, "train on two ranks": 4, "run": 8, "evaluate": 6}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_was_killed_ends_as_if_it_had_not_been(name: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    tried, failures = check(COMMANDS[name](root), Place(root, RANKS.get(name, 1)), FEW.get(name, 6))
    assert not failures, "\n".join(failures)
    assert tried > (0 if name == "statistics" else 2)  # it writes one file, and keeps nothing before
