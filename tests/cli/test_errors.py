"""Errors have one form: `error: WHERE: WHAT`, then `hint: WHAT TO DO`."""

import pickle
from pathlib import Path

import pytest

import soupkit as soupkit_api
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


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("loop", "is a link that leads back to itself"),
        ("dangling", "is a link to what is not there"),
        ("file", "is no directory"),
    ],
)
def test_what_is_in_the_way_of_an_output_is_named_and_stays(
    kind: str, said: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    way = here / kind
    way.write_text("mine") if kind == "file" else way.symlink_to(way if kind == "loop" else here / "not there")
    was = way.lstat()
    soupkit_api.merge(["runs/a", "runs/b"], "soup")
    calls = [
        lambda: soupkit_api.merge(["runs/a", "runs/b"], way / "x"),
        lambda: soupkit_api.search(["runs/a", "runs/b"], way / "x", score=lambda directory: 1.0),
        lambda: soupkit_api.train("recipe.yaml", way / "x", run="stage1"),
        lambda: soupkit_api.run_recipe("recipe.yaml", way / "x"),
        lambda: soupkit_api.publish("soup", "me/x", license="mit", folder=way / "x"),
        lambda: soupkit_api.report("scores.json", way / "x.html"),
        lambda: soupkit_api.report("scores.json", "y.html", png=way / "x"),
    ]
    for call in calls:
        with pytest.raises(SoupkitError, match=f"{kind} {said}|{kind}: {said}"):
            call()
    assert way.lstat().st_ino == was.st_ino and not (here / "y.html").exists()


def test_a_report_is_written_through_a_link_and_over_no_loop(here: Path) -> None:
    (here / "page.html").symlink_to(here / "kept" / "page.html")
    (here / "kept").mkdir()
    soupkit_api.report("scores.json", "page.html")
    assert (here / "page.html").is_symlink() and (here / "kept" / "page.html").is_file()
    (here / "loop").symlink_to("loop")
    with pytest.raises(UsageError, match="leads back to itself"):
        soupkit_api.report("scores.json", "loop")
    assert (here / "loop").is_symlink()
