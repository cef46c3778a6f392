"""The benchmark runs for anyone: without an environment for peers, at a small size, and says what failed."""

import subprocess
import sys
from pathlib import Path

from benchmarks.measure import measure
from benchmarks.merge import WEIGHTS, Record, cold, rounds, subjects, table
from tests.conftest import environment

ROOT = Path(__file__).parents[2]


def test_the_benchmark_prints_ratios_for_every_subject(tmp_path: Path) -> None:
    options = ["--count", "2", "--rounds", "1", "--cold-rounds", "0", "--peers", "torch-loop", "--work", str(tmp_path)]
    command = [sys.executable, "-m", "benchmarks.merge", "ViT-S-32-alt", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=280)
    assert done.returncode == 0, done.stderr
    for words in ("### warm", "| floor |", "| soupkit |", "| torch-loop |", "largest difference"):
        assert words in done.stdout
    assert "failed" not in done.stdout


def test_cold_inputs_are_read_from_the_disk(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / WEIGHTS).write_bytes(bytes(5 << 20))
    inputs = [tmp_path / name for name in "ab"]
    floor = subjects([], None, inputs, tmp_path / "out")["floor"]
    record = Record(tmp_path / "rounds.jsonl", "cold")
    runs, failures = rounds({"floor": floor}, tmp_path / "out", lambda: cold(inputs), 2, record, "cold")
    assert not failures and len(runs["floor"]) == 2 and "### cold" in table("cold", runs, failures)
    assert len(record.read("cold")) == 2, "stopped here, the benchmark would go on"


def test_memory_of_a_process_and_its_children_is_measured() -> None:
    child = "x = bytearray(200_000_000); import time; time.sleep(0.5)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    run = measure([sys.executable, "-c", code + "; print('{\"merge\": 1.5}')"])
    assert run.merge == 1.5 and run.process > 0.5
    assert run.anonymous > 200_000_000 and run.resident > run.anonymous


def test_ratios_are_taken_round_by_round() -> None:
    from benchmarks.measure import Run

    runs = {"floor": [Run(1, 1, 0, 0), Run(4, 4, 0, 0)], "soupkit": [Run(2, 2, 0, 0), Run(8, 8, 0, 0)]}
    assert "| soupkit | 5.00 (2.00 to 8.00) | 2.00 (2.00 to 2.00) | 2.00 (2.00 to 2.00) |" in "\n".join(
        table("x", runs, {})
    )
