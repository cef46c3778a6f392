"""The script for a GPU runs here at a small size, part by part, and a part that fails is said and does not end it."""

import os
import stat
import subprocess
import sys
from pathlib import Path

from benchmarks import ROOT

SCRIPT = ROOT / "benchmarks" / "gpu.sh"


def run(python: Path | str, tmp_path: Path) -> tuple[subprocess.CompletedProcess[str], str]:
    table = tmp_path / "gpu.md"
    env = {**os.environ, "SOUPKIT_PYTHON": str(python), "SOUPKIT_WORK": str(tmp_path / "work")}
    done = subprocess.run([SCRIPT, "--dry", table], capture_output=True, text=True, env=env, timeout=290)
    return done, table.read_text()


def test_every_part_runs_at_a_small_size_on_the_cpu(tmp_path: Path) -> None:
    done, table = run(sys.executable, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ended with status" not in table
    for row in ("| 0% | selective |", "| 0% | open_clip |", "| soupkit |", "| uniform | cpu |"):
        assert row in table
    assert "skipped" in table, "the tests marked gpu were asked for"


def test_a_part_that_fails_is_said_and_the_others_go_on(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$2"\n[ "$2" != benchmarks.merge ]\n')
    python.chmod(python.stat().st_mode | stat.S_IEXEC)
    done, table = run(python, tmp_path)
    assert done.returncode == 1
    assert table.count("ended with status") == 1 and "**merges: ended with status 1" in table
    assert table.count("benchmarks.evaluate") == 1 and table.index("benchmarks.merge") < table.index("pytest")
