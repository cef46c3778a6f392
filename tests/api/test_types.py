"""What a type checker of others says of a program that uses soupkit, and what a wrong one is told."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PYRIGHT = shutil.which("basedpyright") or shutil.which("pyright")
ROOT = Path(__file__).parents[2]

# A keyword that there is not, and a value that cannot be, for each function that takes options as keywords.
WRONG = {
    'x: int = soupkit.merge(["a"], "b").fingerprint': "reportAssignmentType",
    'soupkit.merge(["a"], "b", colour=1)': "reportCallIssue",
    'soupkit.search(["a"], "b", tasks="digits", order=1)': "reportCallIssue",
    'soupkit.search(["a"], "b", tasks="digits", orders="all")': "reportArgumentType",
    'soupkit.interpolate("a", "b", tasks="digits", limits=1)': "reportCallIssue",
    'soupkit.evaluate("a", "digits", limit="all")': "reportArgumentType",
    'soupkit.evaluate("a", "digits", limits=1)': "reportCallIssue",
    'soupkit.train("a.yaml", "b", worker=1)': "reportCallIssue",
    'soupkit.publish("a", "me/a", licence="mit")': "reportCallIssue",
    'soupkit.publish("a", "me/a", private="yes")': "reportArgumentType",
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What a strict check says of the example and of the faults, by file."""
    if PYRIGHT is None:
        pytest.skip("pyright is not installed")
    directory = tmp_path_factory.mktemp("typed")
    example = (ROOT / "tests" / "api" / "typed_example.py").read_text("utf-8")
    (directory / "right.py").write_text(example, "utf-8")
    (directory / "wrong.py").write_text("\n".join(["import soupkit", *WRONG]) + "\n", "utf-8")
    settings = {"typeCheckingMode": "strict", "extraPaths": [str(ROOT)], "include": ["."]}
    (directory / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [PYRIGHT, "--project", str(directory), "--pythonpath", sys.executable, "--outputjson"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    by_file: dict[str, list[dict[str, Any]]] = {"right.py": [], "wrong.py": []}
    for fault in found["generalDiagnostics"]:
        by_file[Path(fault["file"]).name].append(fault)
    return by_file


def test_pyright_finds_nothing_in_a_program(said: dict[str, list[dict[str, Any]]]) -> None:
    assert said["right.py"] == []


def test_pyright_finds_the_fault_in_each_wrong_line(said: dict[str, list[dict[str, Any]]]) -> None:
    found = {fault["range"]["start"]["line"]: fault["rule"] for fault in said["wrong.py"]}
    assert found == dict(enumerate(WRONG.values(), 1))
