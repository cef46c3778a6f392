"""Batches: the same for any number of ranks and readers, whatever is damaged."""

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from soupkit.errors import UsageError
from soupkit.evaluation.adapter import open_tokenizer
from soupkit.ranks import Ranks
from soupkit.training.data.batches import TrainingData, batches
from soupkit.training.data.sources import open_sources
from soupkit.training.entry import TrainEntry
from tests.conftest import CONFIG, TINY_MODEL
from tests.training.data.entries import entry
from tests.training.shards import write_shard


def seen(
    run: TrainEntry, ranks: int, start: int = 0, workers: int = 0, by_turns: bool = False
) -> list[tuple[bytes, bytes]]:
    """What all ranks together read from step `start` on, in the order of the global batch."""
    data = TrainingData(run, CONFIG, open_tokenizer(CONFIG, (), ""))
    parts = [list(batches(data, run, Ranks(r, ranks), start, workers, by_turns=by_turns)) for r in range(ranks)]
    return [
        (image.numpy().tobytes(), text.numpy().tobytes())
        for step in zip(*parts, strict=True)
        for part in step
        for image, text in zip(part.images, part.targets, strict=True)
    ]


def test_ranks_workers_and_resumes_read_the_same_samples(tmp_path: Path) -> None:
    write_shard(tmp_path / "0.tar", 0, 20)
    write_shard(tmp_path / "1.tar", 20, 15)
    run = entry(data={"shards": str(tmp_path / "{0..1}.tar")}, augmentation={"scale": [0.5, 1.0]})
    whole = seen(run, 1)
    assert len(whole) == 64 and len({text for _, text in whole[:35]}) == 35
    assert seen(run, 4) == whole
    assert seen(run, 1, workers=2) == whole
    assert seen(run, 1, workers=2, by_turns=True) == whole
    assert seen(run, 2, start=5) == whole[5 * 8 :]
    assert seen(entry(**{**run.model_dump(exclude_unset=True), "seed": 1}), 1) != whole


def test_by_turns_nothing_is_read_while_a_batch_is_worked_on(tmp_path: Path) -> None:
    run = entry(data={"shards": str(write_shard(tmp_path / "0.tar", 0, 20))})
    source = open_sources(run)[0]
    log = tmp_path / "read"

    def read(index: int) -> tuple[bytes, tuple[str, ...]]:
        time.sleep(0.01)
        with log.open("ab") as file:
            file.write(b".")
        return source.read(index)

    data = TrainingData(run, CONFIG, open_tokenizer(CONFIG, (), ""), [replace(source, read=read)])
    found = batches(data, run, Ranks(), 0, 2, by_turns=True)
    next(found)
    time.sleep(0.2)  # what was begun is finished
    before = log.stat().st_size
    assert 8 <= before < 40, "the readers have five batches to read"
    time.sleep(0.3)
    assert log.stat().st_size == before
    assert len(list(found)) == 7 and log.stat().st_size == 64


def test_balanced_batches_hold_every_class_alike_and_no_caption_twice() -> None:
    run = entry(data={"shards": "digits:train", "balanced": True, "share": 0.1}, batch_size=80, samples=240)
    longer = {**CONFIG, "model_cfg": {**TINY_MODEL, "text_cfg": {**TINY_MODEL["text_cfg"], "context_length": 16}}}
    data = TrainingData(run, longer, open_tokenizer(longer, (), ""))
    assert data.sources[0].labels is not None
    labels = data.sources[0].labels()
    order = data._orders[0]
    for group in range(30):
        assert sorted(labels[order(k)] for k in range(group * 10, group * 10 + 10)) == list(range(10))
    for batch in batches(data, run, Ranks(), 0, 0):
        assert len({text.numpy().tobytes() for text in batch.targets}) == 80


def test_a_damaged_image_is_replaced_and_counted(tmp_path: Path) -> None:
    run = entry(data={"shards": str(write_shard(tmp_path / "0.tar", 0, 16, damaged=(3, 4)))}, samples=16)
    data = TrainingData(run, CONFIG, open_tokenizer(CONFIG, (), ""))
    found = list(batches(data, run, Ranks(), 0, 0))
    damaged = [d for batch in found for d in batch.damaged]
    assert len(damaged) == 2 and all("0.tar, sample" in d for d in damaged)
    assert all(len(batch.images) == 8 for batch in found)


def test_rand_augment_is_drawn_from_the_seed_alone(tmp_path: Path) -> None:
    shard = str(write_shard(tmp_path / "0.tar", 0, 8))
    augmented = {"scale": [0.5, 1.0], "auto_augment": "rand-m9-n2"}
    runs = [entry(data={"shards": shard}, augmentation=a, samples=16) for a in ({"scale": [0.5, 1.0]}, augmented)]
    plain, first, second = seen(runs[0], 1), seen(runs[1], 1), seen(runs[1], 2, workers=1)
    assert first == second and plain != first
    with pytest.raises(UsageError, match="refuses the augmentation"):
        seen(entry(data={"shards": shard}, augmentation={"auto_augment": "none"}), 1)


def test_a_mixture_of_sources_is_drawn_by_weight(tmp_path: Path) -> None:
    write_shard(tmp_path / "0.tar", 0, 20)
    write_shard(tmp_path / "1.tar", 100, 20)
    sources = [{"shards": str(tmp_path / "0.tar"), "weight": 3}, {"shards": str(tmp_path / "1.tar"), "weight": 1}]
    run = entry(data=sources, samples=64)
    data = TrainingData(run, CONFIG, open_tokenizer(CONFIG, (), ""))
    counts = Counter(data._mixture(p)[0] for p in range(64))
    assert counts == {0: 48, 1: 16}
    assert np.isfinite(data[0][0].numpy()).all()
