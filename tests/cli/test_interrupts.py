"""Ctrl-C while the command line is still starting: real signals, from its first line on."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.processes import environment

# What the installed `soupkit` script does, watched by a finder that acts when a module is about to be imported.
WATCHED = """
import os, sys
from signal import SIGINT
class Watch:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == MOMENT:
            sys.meta_path.remove(Watch)
            ACT
sys.meta_path.insert(0, Watch)
from soupkit.__main__ import main
main()
"""


def watched(moment: str, act: str) -> list[str]:
    return [sys.executable, "-c", WATCHED.replace("MOMENT", repr(moment)).replace("ACT", act)]


@pytest.mark.parametrize(
    "moment",
    [
        "soupkit.cli.interrupts",  # the first thing that is imported
        "soupkit.cli.main",
        "typer",
        "rich.console",
        "soupkit.cli.commands",
        "soupkit.cli.run",  # the last of the commands
        "soupkit.checkpoint.reference",  # the command has begun
        "numpy",
        "safetensors",  # the format of the file is being looked for
    ],
)
def test_ctrl_c_during_any_import_ends_with_130_and_without_a_traceback(moment: str, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"")
    command = [*watched(moment, "os.kill(os.getpid(), SIGINT)"), "inspect", tmp_path / "x.safetensors"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr and not done.stdout


def test_ctrl_c_at_any_moment_of_the_start_is_quiet() -> None:
    rng = random.Random(0)
    for _ in range(8):
        command = [*watched("soupkit.cli.main", "os.write(1, b'x')"), "--help"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
        assert process.stdout is not None and os.read(process.stdout.fileno(), 1) == b"x"
        time.sleep(rng.random() * 0.15)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        # The signal itself ends an interpreter that has taken down its handlers; a shell calls that 130 too.
        assert process.returncode in (130, 0, -signal.SIGINT) and not errors, errors


def test_a_process_that_is_told_to_ignore_ctrl_c_ignores_it() -> None:
    """As `nohup` and `&` ask for."""
    command = [*watched("typer", "os.kill(os.getpid(), SIGINT)"), "--version"]
    done = subprocess.run(
        ["sh", "-c", "trap '' INT; exec \"$@\"", "-", *command], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0 and done.stdout.startswith("soupkit ")
