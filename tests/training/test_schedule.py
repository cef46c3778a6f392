"""The learning rate beside open_clip's and the literature's."""

from pathlib import Path

import pytest
import torch

from soupkit.training.runs import read_runs
from soupkit.training.schedule import Schedule, schedule_of
from tests.training.test_runs import recipe


def test_a_continued_schedule_is_that_of_the_literature(tmp_path: Path) -> None:
    a = next(run.entry for run in read_runs(recipe(tmp_path)) if run.name == "a")
    assert schedule_of(a)(0) == pytest.approx(3.8e-5, rel=0.01)
    assert schedule_of(a)(2_000_000_000) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("constant", [False, True])
def test_the_schedule_is_that_of_open_clips_trainer(constant: bool) -> None:
    scheduler = pytest.importorskip("open_clip_train.scheduler")
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    make = scheduler.const_lr if constant else scheduler.cosine_lr
    theirs = make(optimizer, 3e-3, 7, 50)
    ours = Schedule(3e-3, 7 * 16, 50 * 16, 16, constant=constant)
    for step in range(50):
        theirs(step)
        assert ours(step * 16) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
