"""What a type checker of others says of a program that uses soupkit, and what a wrong one is told."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PYRIGHT = shutil.which("basedpyright") or shutil.which("pyright")
ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(PYRIGHT is None, reason="pyright is not installed")
def test_pyright_finds_nothing_in_a_program_and_the_fault_in_a_wrong_one(tmp_path: Path) -> None:
    example = (ROOT / "tests" / "api" / "typed_example.py").read_text("utf-8")
    (tmp_path / "right.py").write_text(example, "utf-8")
    (tmp_path / "wrong.py").write_text("import soupkit\nx: int = soupkit.merge(['a'], 'b').fingerprint\n", "utf-8")
    settings = {"typeCheckingMode": "strict", "extraPaths": [str(ROOT)], "include": ["."]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [str(PYRIGHT), "--project", str(tmp_path), "--pythonpath", sys.executable, "--outputjson"]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    faults = [(Path(d["file"]).name, d["rule"], d["message"]) for d in said["generalDiagnostics"]]
    assert [fault[:2] for fault in faults] == [("wrong.py", "reportAssignmentType")], faults
