"""One script says what has to pass: the workflow and the hooks before a commit call the same commands."""

import re
import subprocess

import yaml

from soupkit.version import __version__
from tests.docs.pages import ROOT

SCRIPT = (ROOT / ".ci" / "run").read_text()


def stages() -> list[str]:
    """Return the stages of the script: those that it does unless told, and the one at the lowest versions."""
    (listed,) = re.findall(r"set -- (.+)$", SCRIPT, re.MULTILINE)
    (known,) = re.findall(r"^    ([a-z |]+)\) \"\$stage\" ;;$", SCRIPT, re.MULTILINE)
    assert [stage for stage in known.split(" | ") if stage != "lowest"] == listed.split()
    return known.split(" | ")


def body(stage: str) -> str:
    match = re.search(rf"^{stage}\(\) \{{\n(.*?)^\}}", SCRIPT, re.DOTALL | re.MULTILINE)
    assert match is not None
    return match[1]


def test_the_workflow_runs_every_stage_of_the_script_and_nothing_else() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert job["strategy"]["matrix"]["stage"] == stages()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run ${{ matrix.stage }}"]


def test_the_hooks_are_the_checks_of_the_script() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    for hook in repository["hooks"]:
        tool, *words = hook["entry"].split()
        assert " ".join([f'"$dev/{tool}"', *words]) in body("checks")
    assert body("checks").count('"$dev/') == len(repository["hooks"])


def test_the_core_of_the_suite_is_there_and_python_begins_where_the_package_does() -> None:
    core = (ROOT / ".ci" / "core.txt").read_text().split()
    assert len(core) == len(set(core)) and all((ROOT / name).is_file() for name in core)
    assert "mapfile -t core < .ci/core.txt" in body("lowest")
    (lowest,) = re.findall(r'^requires-python = ">=(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert f"python={lowest}\n" in body("lowest")


def test_a_stage_that_does_not_exist_is_refused() -> None:
    done = subprocess.run([ROOT / ".ci" / "run", "everything"], capture_output=True, text=True)
    assert done.returncode == 2 and all(stage in done.stderr for stage in ("everything", *stages()))


def test_the_test_command_of_the_readme_is_the_one_that_the_script_runs() -> None:
    (reading,) = re.findall(r"command=\$\((.+)\)$", body("tests"), re.MULTILINE)
    done = subprocess.run(["bash", "-c", reading], capture_output=True, text=True, cwd=ROOT, check=True)
    (command,) = done.stdout.splitlines()
    assert command.endswith("-m pytest -n 2") and f"\n{command}\n" in (ROOT / "README.md").read_text()


def test_the_version_stands_once_and_the_changes_begin_with_it() -> None:
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first is not None and first[1] == __version__
    assert "version" not in yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert f'"{__version__}"' not in (ROOT / "pyproject.toml").read_text()
