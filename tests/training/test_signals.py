"""Ctrl-C and SIGTERM as terminals, `timeout` and schedulers send them: to the whole group, workers included."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from soupkit.errors import DataError
from soupkit.evaluation.adapter import open_tokenizer
from soupkit.ranks import Ranks
from soupkit.training import TrainOptions, signals, train
from soupkit.training.data.batches import TrainingData, batches, killed_workers_said
from soupkit.training.entry import TrainEntry
from soupkit.training.signals import stop_signals
from tests.conftest import CONFIG
from tests.training.runs import settings, start_train, wait_until
from tests.training.shards import write_shard


@pytest.mark.parametrize(("number", "times"), [(signal.SIGTERM, 2), (signal.SIGINT, 1)])
def test_a_signal_to_the_whole_group_leaves_a_checkpoint(tmp_path: Path, number: int, times: int) -> None:
    """Twice, as `timeout` does it: its child first, then the group."""
    (tmp_path / "run.yaml").write_text(json.dumps(settings(samples=16_000, checkpoint_every=16_000)))
    process = start_train(tmp_path, "run.yaml", "--device", "cpu", "--workers", "2", "-o", "run")
    curves = tmp_path / "run.partial" / "metrics.jsonl"
    wait_until(lambda: curves.is_file() and curves.read_text().count("\n") > 2, process)
    for _ in range(times):
        os.killpg(process.pid, number)
    ended = process.wait(60)
    assert ended.returncode == 130 and "resumes where it stopped" in ended.stderr, ended.stderr
    assert "unexpected" not in ended.stderr and "Traceback" not in ended.stderr
    (checkpoint,) = (tmp_path / "run.partial" / "checkpoints").iterdir()
    assert f"stopped after {int(checkpoint.name):,} samples, with a checkpoint" in ended.stderr
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _is_there(process.pid):
        time.sleep(0.01)
    assert not _is_there(process.pid), "a worker outlived the run"


def _is_there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_asked_twice_in_earnest_it_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    with stop_signals() as stop:
        for later in (0.0, 0.1, 1.0):
            now[0] += later
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
        now[0] += 5
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def data_of(tmp_path: Path, damaged: tuple[int, ...] = ()) -> tuple[TrainingData, TrainEntry]:
    shard = write_shard(tmp_path / "0.tar", 0, 40, damaged=damaged)
    entry = TrainEntry.model_validate(settings(data={"shards": str(shard)}, batch_size=8))
    return TrainingData(entry, CONFIG, open_tokenizer(CONFIG, (), "")), entry


def test_workers_end_with_their_parents_word_and_with_nobody_elses(tmp_path: Path) -> None:
    data, entry = data_of(tmp_path)
    found = batches(data, entry, Ranks(), 0, 1)
    next(found)
    (worker,) = multiprocessing.active_children()
    sender = multiprocessing.get_context("fork").Process(target=os.kill, args=(worker.pid, signal.SIGTERM))
    sender.start()
    sender.join()
    worker.join(0.3)
    assert worker.is_alive()
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 0
    found.close()


# torch raises wherever the main thread is when it hears of the death, once more while the iterator is taken away.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_worker_that_was_killed_is_said_without_a_traceback(tmp_path: Path) -> None:
    data, entry = data_of(tmp_path)
    found = batches(data, entry, Ranks(), 0, 1)
    next(found)
    (worker,) = multiprocessing.active_children()

    def killed() -> None:
        worker.kill()
        list(found)

    with pytest.raises(DataError, match="was killed"), killed_workers_said():
        killed()


def test_an_error_in_a_worker_is_the_error_itself(tmp_path: Path) -> None:
    data, entry = data_of(tmp_path, damaged=tuple(range(40)))
    with pytest.raises(DataError) as caught:
        next(batches(data, entry, Ranks(), 0, 1))
    assert caught.value.what.startswith("32 samples in a row are damaged, the first: ")
    assert "0.tar, sample" in caught.value.what


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_are_forked_whatever_way_processes_start_otherwise(method: str, tmp_path: Path) -> None:
    write_shard(tmp_path / "0.tar", 0, 20)
    run = settings(
        data=[{"shards": str(tmp_path / "0.tar")}, {"shards": "digits:train"}], samples=32, warmup=0,
        evaluate={"tasks": ["digits:val"], "every": 16, "limit": 20},
    )  # fmt: skip
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(method, force=True)
    try:
        found = train(run, tmp_path / "run", options=TrainOptions(device="cpu", workers=2, threads=1, cache=tmp_path))
    finally:
        multiprocessing.set_start_method(before, force=True)
    assert found.status == "trained" and '"scores"' in (tmp_path / "run" / "metrics.jsonl").read_text()
