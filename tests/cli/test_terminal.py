"""Real commands on real terminals: one live line, a short record, and nothing else in the way."""

import json
import re
from pathlib import Path

import pytest

from tests.cli.terminal import on_terminal
from tests.cli.test_score_table import WIDTHS


@pytest.fixture
def recipe(tiny_clips: list[Path], tmp_path: Path) -> Path:
    """A run of twenty steps."""
    run = {
        "init": str(tiny_clips[0]), "data": {"shards": "digits:train"}, "batch_size": 8, "samples": 160, "lr": 1e-4,
    }  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({"train": {"a": run, "b": {**run, "init": "${train.a}"}}}))
    return path


@pytest.mark.parametrize("width", WIDTHS)
def test_a_training_is_one_live_line_and_leaves_a_line_for_every_tenth(
    width: int, recipe: Path, tmp_path: Path
) -> None:
    code, seen = on_terminal(width, "train", recipe, "--run", "a", "-o", tmp_path / "out", "--workers", "0")
    assert code == 0, seen.raw
    tenths = [line for line in seen.lines if re.match(r"training: \d+ %", line)]
    assert [line.split()[1] for line in tenths] == [f"{10 * i}" for i in range(1, 10)]
    assert all(" loss " in line and " lr " in line for line in tenths)
    live = [frame for frame in seen.frames if frame.startswith("training") and "%" in frame]
    assert live and all(len(frame) <= width for frame in live)
    words = ("loss", "lr", "samples/s", "left") if width >= 80 else ("loss", "lr")
    assert all(any(word in frame for frame in live) for word in words), live[-1]
    assert not any("━" in line for line in seen.lines), "the bar goes when the work is done"
    assert f"trained: {tmp_path / 'out'}" in seen.lines
    assert seen.raw.count("\x1b[?25l") == seen.raw.count("\x1b[?25h"), "the cursor comes back"


def test_what_follows_a_training_leaves_out_what_the_fine_tunes_began_from(recipe: Path, tmp_path: Path) -> None:
    code, seen = on_terminal(120, "train", recipe, "-o", "out", "--workers", "0", cwd=tmp_path)
    assert code == 0 and "next: soupkit inspect out/b" in seen.lines


def test_with_no_color_nothing_has_a_colour_or_is_bold(recipe: Path, tiny_clips: list[Path], tmp_path: Path) -> None:
    training = ("train", recipe, "--run", "a", "-o", tmp_path / "out", "--workers", "0")
    for arguments in (training, ("compare", *tiny_clips), ("merge", "nowhere", "-o", "x"), ("merge", "--help")):
        _, seen = on_terminal(80, *arguments, env={"NO_COLOR": "1"})
        assert seen.styles == [], arguments
    assert on_terminal(80, "merge", "--help")[1].styles and on_terminal(80, "compare", *tiny_clips)[1].styles


@pytest.mark.parametrize("option", ["--quiet", "-q"])
def test_quiet_draws_nothing(option: str, recipe: Path, tmp_path: Path) -> None:
    code, seen = on_terminal(80, "train", recipe, "--run", "a", "-o", tmp_path / "out", "--workers", "0", option)
    assert (code, seen.raw) == (0, "")


@pytest.mark.parametrize("width", WIDTHS)
def test_scores_on_a_terminal_are_not_cut(width: int, tiny_clips: list[Path], tmp_path: Path) -> None:
    cache = ("--cache", tmp_path / "cache")
    code, seen = on_terminal(width, "evaluate", *tiny_clips[:2], "--task", "digits", "--limit", "40", *cache)
    assert code == 0 and not any(line.endswith("…") for line in seen.lines)
    scores = [line for line in seen.lines if re.search(r"\d\d ±\d", line)]
    assert len(scores) == 2 and all(len(line) <= width for line in scores)
