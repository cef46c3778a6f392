"""The training benchmarks run, at a size that says nothing about speed."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from benchmarks.train import one_training
from benchmarks.train.__main__ import ROOM
from benchmarks.train.optimizer_steps import compare

ROOT = Path(__file__).parents[3]


def test_the_loss_is_compared_with_open_clips(tmp_path):
    output = tmp_path / "results" / "loss.md"
    command = [sys.executable, "-m", "benchmarks.train", "loss", "--batch", "600", "--width", "16", "--rounds", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--output", output], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = output.read_text()
    assert done.stdout.strip() == text.strip()
    assert "| soupkit, in tiles |" in text
    difference = text.rpartition("between the two losses: ")[2].rstrip(".\n")
    assert float(difference) < 1e-4


def test_accumulation_is_compared_with_open_clips_loop():
    theirs, mine = compare(16, 16, pieces=8, rounds=2)
    assert len(theirs) == len(mine) == 2 and min(*theirs, *mine) > 0


def test_the_whole_trainer_is_timed_step_by_step(tmp_path, monkeypatch):
    monkeypatch.setattr(one_training, "IN_A_SHARD", 3)
    small = {**one_training.MODEL, "text_cfg": {**one_training.MODEL["text_cfg"], "width": 16, "heads": 1, "layers": 1}}
    monkeypatch.setattr(one_training, "MODEL", small)
    seconds = one_training.train_once(SimpleNamespace(work=tmp_path, batch=4, steps=11, workers="0", clock="processor"))
    assert len(seconds) == 11 and min(seconds) > 0


def test_shards_are_indexed_and_orders_drawn():
    arguments = ROOM.parse(["shards", "--shards", "2", "--samples", "20"])
    assert arguments.run(arguments)[0].startswith("## 40 samples in 2 shards")
    arguments = ROOM.parse(["orders", "--shards", "3"])
    lines = arguments.run(arguments)
    assert lines[0] == "## 30,000 samples in 3 shards" and lines[-1].count("|") == 3
