"""Two versions are compared by what whole commands take, here one version with itself."""

from pathlib import Path

from benchmarks import ROOT
from benchmarks.versions.__main__ import ROOM


def test_a_version_is_compared_with_itself(tmp_path: Path) -> None:
    options = ["--before", str(ROOT), "--of", "merge", "--model", "ViT-S-32-alt", "--rounds", "1"]
    arguments = ROOM.parse(["ratios", *options, "--work", str(tmp_path)])
    lines = arguments.run(arguments)
    cells = [cell.strip() for cell in lines[-1].strip("| ").split("|")]
    assert cells[0] == "`merge`" and all(float(cell.split()[0]) > 0 for cell in cells[1:])
    assert not (tmp_path / "output").exists()
    assert arguments.run(arguments) == lines, "the round is kept"
