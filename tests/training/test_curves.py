"""What a run tells while it goes on: scores that leave no trace in it, and what trackers are given."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from soupkit.errors import UsageError
from soupkit.evaluation import EvaluationOptions, evaluate
from soupkit.training import TrainOptions, train
from soupkit.training.curves import Curves
from tests.training.runs import Interrupting, settings, weights

SCORED = {"tasks": ["digits:val"], "every": 48, "limit": 100}


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> TrainOptions:
    return TrainOptions(device="cpu", workers=0, threads=1, cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, options: TrainOptions) -> Path:
    place = tmp_path_factory.mktemp("runs") / "plain"
    train(settings(samples=112), place, options=options)
    return place


def lines_of(place: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]


def scores_of(place: Path) -> dict[int, dict[str, Any]]:
    return {line["samples"]: line["scores"] for line in lines_of(place) if "scores" in line}


def test_a_run_that_is_scored_ends_with_the_bytes_of_one_that_is_not(
    plain: Path, options: TrainOptions, tmp_path: Path
) -> None:
    watched = Interrupting(-1)
    train(settings(samples=112, evaluate=SCORED), tmp_path / "run", options=options, progress=watched)
    assert weights(tmp_path / "run") == weights(plain)
    curve = [line["loss"] for line in lines_of(tmp_path / "run") if "loss" in line]
    assert curve == [line["loss"] for line in lines_of(plain)]
    found = scores_of(tmp_path / "run")
    assert list(found) == [48, 96, 112], "every 48 samples and at the end"
    how = EvaluationOptions(device="cpu", cache=options.cache, limit=100)
    run = tmp_path / "run"
    live, average = evaluate([run, f"{run}@ema"], ["digits:val"], options=how).scores
    assert found[112]["digits:val"]["value"] == live.value and found[112]["ema/digits:val"]["value"] == average.value
    assert found[112]["digits:val"]["n"] == 100 and found[112]["digits:val"]["low"] < live.value
    assert any(note.startswith("96 samples: digits:val acc1 ") for note in watched.notes)


def test_a_run_stopped_where_it_is_to_be_scored_is_scored_when_it_goes_on(
    plain: Path, options: TrainOptions, tmp_path: Path
) -> None:
    run = settings(samples=112, evaluate=SCORED)
    with pytest.raises(KeyboardInterrupt):
        train(run, tmp_path / "run", options=options, progress=Interrupting(3))
    assert not scores_of(tmp_path / "run.partial"), "the wish to stop goes first"
    train(run, tmp_path / "run", options=options)
    assert list(scores_of(tmp_path / "run")) == [48, 96, 112] and weights(tmp_path / "run") == weights(plain)


def test_scores_that_are_there_are_not_taken_again(tmp_path: Path) -> None:
    curves = Curves(tmp_path, 0)
    for samples in (16, 32, 48):
        curves.write(samples, {"loss": 1.0})
        curves.write_scores(samples, {"digits:val": {"value": 0.5}})
    kept = Curves(tmp_path, 32)
    assert kept.scored(32) and not kept.scored(48) and list(scores_of(tmp_path)) == [16, 32]


def test_tensorboard_shows_the_curves_of_a_run_that_was_interrupted(options: TrainOptions, tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = settings(report_to=["tensorboard"], evaluate=SCORED)
    with pytest.raises(KeyboardInterrupt):
        train(run, tmp_path / "run", options=options, progress=Interrupting(3))
    train(run, tmp_path / "run", options=options)
    told = events.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    told.Reload()
    assert {"loss", "lr", "grad_norm", "samples_per_s", "digits:val", "ema/digits:val"} <= set(told.Tags()["scalars"])
    losses = [(line["samples"], line["loss"]) for line in lines_of(tmp_path / "run") if "loss" in line]
    shown = [(event.step, event.value) for event in told.Scalars("loss")]
    assert [step for step, _ in shown] == list(range(16, 97, 16))
    assert [value for _, value in shown] == pytest.approx([loss for _, loss in losses], rel=1e-6)


def test_trackio_is_given_the_curves(
    monkeypatch: pytest.MonkeyPatch, options: TrainOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[Any] = []
    module = ModuleType("trackio")
    module.init = lambda **named: said.append(named) or print("welcome")  # type: ignore[attr-defined]
    module.log = lambda values, step: said.append((step, values))  # type: ignore[attr-defined]
    module.finish = lambda: said.append("finish")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trackio", module)
    train(settings(samples=32, warmup=0, report_to=["trackio"]), tmp_path / "mine" / "run", options=options)
    assert said[0] == {"project": "mine", "name": "run", "resume": "never"} and said[-1] == "finish"
    assert [step for step, _ in said[1:-1]] == [16, 32] and all(values["loss"] > 0 for _, values in said[1:-1])
    assert not capsys.readouterr().out, "stdout is for the document of --json"


@pytest.mark.parametrize("name", ["tensorboard", "trackio"])
def test_a_tracker_that_is_not_installed_is_said_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=f"{name} is not installed\nhint: pip install {name}"):
        train(settings(report_to=[name]), tmp_path / "run")
    assert not list(tmp_path.iterdir())
