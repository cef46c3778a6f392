"""The line of a job keeps its figures in any width, and what it leaves behind is short."""

from typing import Any

import pytest
from rich.progress import Progress

from soupkit.cli import progress
from soupkit.cli.console import PlainConsole
from soupkit.cli.output import clock
from soupkit.cli.progress import BarProgress, PlainProgress
from soupkit.cli.progress_line import ProgressLine
from tests.cli.test_score_table import WIDTHS, compared

LONG = "fingerprints of long/vit-b-32_laion2b_lr1e-5_wd0.1_aug-m10_ep16_seed01 and of others"


def line(width: int, label: str, state: str = "", total: int | None = 5_000_000_000) -> str:
    """Draw a job that has done 45 % in 10 seconds, by a clock that stands still."""
    now = 0.0
    bar = Progress(ProgressLine("B"), console=PlainConsole(width=width), expand=True, get_time=lambda: now)
    task = bar.add_task(label, total=total, state=state)
    for now in (0.0, 5.0, 10.0):  # noqa: B007 - the clock of `bar`
        bar.advance(task, 750_000_000)
    console = PlainConsole(width=width, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(bar.get_renderable())
    return captured.get().rstrip("\n")


@pytest.mark.parametrize("width", [*WIDTHS, 40])
@pytest.mark.parametrize("label", ["merging", LONG], ids=["short", "long"])
def test_figures_stay_and_the_label_gives_way(width: int, label: str) -> None:
    drawn = line(width, label)
    compared(drawn, f"progress-{'long' if label == LONG else 'short'}-at-{width}.txt")
    assert len(drawn) <= width and "\n" not in drawn
    assert "45 %" in drawn and "MB/s" in drawn and (width < 60 or "left" in drawn)


@pytest.mark.parametrize("width", WIDTHS)
def test_training_shows_loss_and_lr_in_its_line(width: int) -> None:
    drawn = line(width, "training runs/a", "loss 0.4213, lr 0.0004")
    compared(drawn, f"progress-state-at-{width}.txt")
    assert "loss 0.4213, lr 0.0004" in drawn and "45 %" in drawn and len(drawn) <= width


def test_a_job_of_unknown_length_shows_what_is_done() -> None:
    assert "2.2 GB" in line(80, "reading", total=None) and "%" not in line(80, "reading", total=None)


def job(shown: Any, monkeypatch: pytest.MonkeyPatch, seconds: float, steps: int = 100) -> None:
    """Run a job of `steps` steps that takes so many seconds by its own clock."""
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    shown.start("training a", steps, "samples")
    for step in range(steps):
        now = seconds * (step + 1) / steps
        shown.state(f"loss {1 - step / steps:.2f}")
        shown.advance(1)
    shown.finish()


@pytest.mark.parametrize(("seconds", "lines"), [(3.0, 1), (100.0, 11), (3600.0, 45), (864_000.0, 165)])
def test_plain_lines_come_at_every_tenth_and_every_minute(
    seconds: float, lines: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job(PlainProgress(), monkeypatch, seconds, steps=max(100, int(seconds / 20)))
    said = capsys.readouterr().err.splitlines()
    assert lines / 2 < len(said) <= lines + 1 and said[-1].startswith("training a: ") and "loss 0.0" in said[-1]
    assert all("loss" in text for text in said)


def test_a_bar_leaves_a_line_for_every_tenth_of_a_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job(BarProgress(), monkeypatch, 600.0)
    said = [text for text in capsys.readouterr().err.splitlines() if text.startswith("training a:")]
    assert [text.split(":")[1].split()[0] for text in said] == [str(10 * i) for i in range(1, 10)] + ["100"]


@pytest.mark.parametrize(
    ("seconds", "written"), [(0.26, "0.3 s"), (9.94, "9.9 s"), (59, "59 s"), (245, "4:05 min"), (7805, "2:10 h")]
)
def test_times_are_written_as_people_write_them(seconds: float, written: str) -> None:
    assert clock(seconds) == written
