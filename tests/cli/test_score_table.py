"""Scores on terminals of four widths: nothing is cut, nothing wraps, and models stay tellable apart."""

from pathlib import Path

import pytest

from soupkit.cli.console import PlainConsole
from soupkit.cli.score_table import show_scores
from soupkit.evaluation import Evaluation
from soupkit.evaluation.task import Pair, Score

WIDTHS = (60, 80, 120, 200)
SNAPSHOTS = Path(__file__).parent / "snapshots"
RUNS = [f"long/vit-b-32_laion2b_lr1e-5_wd0.1_aug-m10_ep16_seed{i:02}" for i in (1, 2, 3)]
TASKS = [("wds/imagenet1k", "test"), ("wds/imagenetv2", "test"), ("wds/vtab/cifar10", "test")]


def evaluation(models: int, tasks: int = 3) -> Evaluation:
    scores = [
        Score(ref, None, task, split, "acc1", 0.7 + 0.013 * i, 50_000, 0.688 + 0.013 * i, 0.711 + 0.013 * i)
        for i, ref in enumerate(RUNS[:models])
        for task, split in TASKS[:tasks]
    ]
    pairs = [Pair(RUNS[0], ref, t, s, 3, 18, 0.0015) for ref in RUNS[1:models] for t, s in TASKS[:tasks]]
    return Evaluation(tuple(scores), tuple(pairs), (), {}, 1.0)


def shown(result: Evaluation, width: int, capsys: pytest.CaptureFixture[str], **options: bool) -> str:
    show_scores(result, PlainConsole(width=width, highlight=False, markup=False, emoji=False), **options)
    return capsys.readouterr().out


def compared(text: str, name: str) -> None:
    """Compare `text` with the snapshot; SOUPKIT_SNAPSHOTS=write writes it."""
    import os

    path = SNAPSHOTS / name
    text = "".join(f"{line.rstrip()}\n" for line in text.splitlines())
    if os.environ.get("SOUPKIT_SNAPSHOTS") == "write":
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("models", [1, 2, 3])
def test_a_table_fits_any_width(models: int, width: int, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(evaluation(models), width, capsys)
    compared(text, f"scores-{models}-at-{width}.txt")
    assert max(map(len, text.splitlines())) <= width
    assert all(text.count(f"{100 * (0.7 + 0.013 * i):.2f} ±1.2") == 3 for i in range(models)), "nothing is cut"
    assert "…\n" not in text and not any(line.endswith("…") for line in text.splitlines())


@pytest.mark.parametrize("width", WIDTHS)
def test_p_values_have_a_column_of_their_own_where_they_are_shown(
    width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown(evaluation(2), width, capsys).count("0.0015") == 3
    assert "0.0015" not in shown(evaluation(3), width, capsys)
    assert shown(evaluation(3), width, capsys, every_pair=True).count("0.0015") == 6


def test_in_a_window_too_narrow_for_anything_numbers_stay(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(evaluation(3), 30, capsys)
    assert all(text.count(f"{100 * (0.7 + 0.013 * i):.2f}") == 3 for i in range(3))
