"""The benchmark runs for anyone: without an environment for peers, at a small size, and says what failed."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks.merge import methods
from benchmarks.merge.__main__ import ROOM
from benchmarks.merge.methods import PARAMETERS, file_of
from benchmarks.merge.speed import WEIGHTS, cold, commands_of, rounds, table
from benchmarks.tools.measure import Run
from benchmarks.tools.rounds import Record
from soupkit.merging import read_mergekit
from tests.conftest import environment

ROOT = Path(__file__).parents[3]


def test_the_benchmark_prints_ratios_for_every_subject(tmp_path: Path) -> None:
    options = ["--count", "2", "--rounds", "1", "--cold-rounds", "0", "--peers", "torch-loop", "--work", str(tmp_path)]
    command = [sys.executable, "-m", "benchmarks.merge", "speed", "ViT-S-32-alt", *options]
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
    floor = commands_of([], None, inputs, tmp_path / "out")["floor"]
    record = Record(tmp_path / "rounds.jsonl")
    runs, failures = rounds({"floor": floor}, tmp_path / "out", lambda: cold(inputs), 2, record, "cold")
    assert not failures and len(runs["floor"]) == 2 and "### cold" in table("cold", runs, failures)
    assert len(record.read("cold, floor")) == 2, "stopped here, the benchmark would go on"


def test_ratios_are_taken_round_by_round() -> None:
    runs = {"floor": [Run(1, 1, 0, 0), Run(4, 4, 0, 0)], "soupkit": [Run(2, 2, 0, 0), Run(8, 8, 0, 0)]}
    assert "| soupkit | 5.00 (2.00 to 8.00) | 2.00 (2.00 to 2.00) | 2.00 (2.00 to 2.00) |" in "\n".join(
        table("x", runs, {})
    )


def test_the_peak_is_measured_of_every_size_warm_and_cold(tmp_path: Path) -> None:
    arguments = ROOM.parse(["memory", "ViT-S-32-alt:2", "ViT-S-32-alt:4", "--work", str(tmp_path)])
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in arguments.run(arguments)[-2:]]
    assert [row[0] for row in rows] == ["ViT-S-32-alt, 2 ingredients", "ViT-S-32-alt, 4 ingredients"]
    assert all(float(cell) > 0 for row in rows for cell in row[1:])
    assert (tmp_path / "ViT-S-32-alt-bfloat16-3-link" / WEIGHTS).resolve().parent.name == "ViT-S-32-alt-bfloat16-0"


@pytest.mark.parametrize("method", PARAMETERS)
def test_the_file_that_both_programs_read_holds_the_method_and_its_models(method: str, tmp_path: Path) -> None:
    models = [tmp_path / name for name in ("a", "b", "c", "base")]
    recipe = tmp_path / f"{method}.yaml"
    recipe.write_text(yaml.safe_dump(file_of(method, models)))
    entry = read_mergekit(recipe)
    ingredients = 2 if method == "slerp" else 3
    assert (entry.method, len(entry.ingredients)) == (method, ingredients)
    assert (entry.base is None) == (method in ("slerp", "karcher"))


def test_the_methods_benchmark_says_which_program_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "versions", lambda python, packages: dict.fromkeys(packages, "0"))
    monkeypatch.setattr(methods, "_PEER_SCRIPT", tmp_path / "no-such-script.py")
    options = ["--count", "2", "--rounds", "1", "--methods", "slerp", "--python", sys.executable]
    arguments = ROOM.parse(["methods", "ViT-S-32-alt", *options, "--work", str(tmp_path)])
    lines = arguments.run(arguments)
    assert len(arguments.record.read("ViT-S-32-alt, bfloat16, 2, slerp, soupkit")) == 1
    assert any(line.startswith("slerp, mergekit failed") and "no-such-script" in line for line in lines)
    assert not any(line.startswith("| slerp") for line in lines)


def test_a_row_has_the_ratios_of_both_clocks() -> None:
    row = methods._row(
        "ties", [Run(2, 1, 3, 4 * 10**9, 1), Run(1, 1, 3, 0, 2)], [Run(4, 1, 3, 0, 5), Run(4, 1, 3, 0, 2)]
    )
    assert row.startswith(
        "| ties | 1.50 (1.00 to 2.00) | 4.00 (4.00 to 4.00) | 3.00 (2.00 to 4.00) | 3.00 (1.00 to 5.00) | 4.00 | 0.00 |"
    )
