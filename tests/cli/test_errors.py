"""Errors have one form: `error: WHERE: WHAT`, then `hint: WHAT TO DO`."""

import pickle
from pathlib import Path

import pytest

from soupkit.cli.errors import report
from soupkit.cli.output import check_file
from soupkit.errors import CheckpointError, SoupkitError, UsageError
from tests.processes import soupkit


def test_an_error_begins_with_its_subject_and_ends_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    error = CheckpointError("holds no weights", "runs/a", "train it first")
    assert str(error) == "runs/a: holds no weights\nhint: train it first"
    assert report(error) == 1
    assert capsys.readouterr().err == f"error: {error}\n"


def test_an_error_without_a_hint_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(UsageError("is no number", "--alpha")) == 2
    assert capsys.readouterr().err == "error: --alpha: is no number\n"


def test_an_error_keeps_its_parts_on_its_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(UsageError("is no number", "--alpha", "give one")))
    assert isinstance(error, UsageError) and (error.what, error.where, error.hint) == (
        "is no number",
        "--alpha",
        "give one",
    )


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(28, "No space left on device", "out/x"), 1, "error: out/x: the disk is full\nhint: make room"),
        (PermissionError(13, "Permission denied", "out/x"), 1, "error: out/x: Permission denied\nhint: check the path"),
        (
            ZeroDivisionError("by zero"),
            1,
            "error: soupkit merge: unexpected ZeroDivisionError: by zero\nhint: ",
        ),
        (KeyboardInterrupt(), 130, "error: soupkit merge: interrupted\nhint: the same command resumes"),
    ],
)
def test_errors_of_python_are_said_in_the_same_form(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(error, "soupkit merge") == code
    assert capsys.readouterr().err.startswith(said)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("boil", "error: soupkit: no such command 'boil'\nhint: `soupkit --help` shows the usage\n"),
        ("inspect", "error: REF: is missing\nhint: `soupkit inspect --help` shows the usage\n"),
        ("merge --methd x", "error: --methd: is no option of soupkit merge\nhint: did you mean --method"),
        ("merge --nonsense", "error: --nonsense: is no option of soupkit merge\nhint: `soupkit merge --help`"),
        ("report --difference a", "error: --difference: requires 2 arguments\nhint: "),
        ("merge --threads many", "error: --threads: "),
    ],
)
def test_a_command_line_that_cannot_be_read_is_answered_in_the_same_form(call: str, said: str) -> None:
    done = soupkit(*call.split())
    assert done.returncode == 2 and done.stderr.startswith(said) and not done.stdout, done.stderr


def test_an_error_that_names_no_subject_is_its_sentence_alone() -> None:
    assert str(SoupkitError("another of the 2 processes has ended")) == "another of the 2 processes has ended"


def test_a_link_that_leads_back_to_itself_is_no_file_to_write(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "a")
    with pytest.raises(UsageError, match="leads back to itself"):
        check_file(tmp_path / "a")
    (tmp_path / "b").symlink_to(tmp_path / "not there yet")
    check_file(tmp_path / "b")
