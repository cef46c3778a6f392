"""The order of the data, and what is read: shards, tables, tasks, and damage in them."""

import time
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soupkit.errors import DataError, UsageError
from soupkit.evaluation.adapter import open_tokenizer
from soupkit.ranks import Ranks
from soupkit.training.data.batches import TrainingData, batches
from soupkit.training.data.sources import Source, open_sources
from soupkit.training.entry import TrainEntry
from soupkit.training.order import Mixture, Shuffled, order_of
from tests.conftest import CONFIG, TINY_MODEL
from tests.training.shards import png, write_shard


def entry(**fields: object) -> TrainEntry:
    usual = {"model": TINY_MODEL, "batch_size": 8, "samples": 64, "lr": 1e-3}
    return TrainEntry.model_validate({**usual, **fields})


def source_of(**data: object) -> Source:
    return open_sources(entry(data=data))[0]


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
        for image, text in zip(part.images, part.texts, strict=True)
    ]


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=9).filter(any), seed=st.integers(0, 99),
    block=st.integers(1, 4), epoch=st.integers(0, 3),
)  # fmt: skip
def test_every_epoch_holds_every_sample_once(sizes: list[int], seed: int, block: int, epoch: int) -> None:
    n = sum(sizes)
    order = Shuffled(tuple(sizes), seed, block)
    assert sorted(order(k) for k in range(epoch * n, (epoch + 1) * n)) == list(range(n))


@given(weights=st.lists(st.integers(1, 50), min_size=1, max_size=5), start=st.integers(0, 10**12))
def test_a_mixture_keeps_its_proportions_and_skips_nothing(weights: list[int], start: int) -> None:
    mixture, n = Mixture(tuple(float(w) for w in weights)), 500
    drawn = [mixture(p) for p in range(start, start + n)]
    for source, weight in enumerate(weights):
        places = [k for s, k in drawn if s == source]
        assert places == list(range(places[0], places[0] + len(places))) if places else True
        assert abs(len(places) - n * weight / sum(weights)) <= len(weights)


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=9).filter(any), share=st.floats(0.01, 0.99),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_a_share_is_the_same_in_every_epoch_and_has_its_size(sizes: list[int], share: float, seed: int) -> None:
    order = order_of(sizes, None, seed, share=share, balanced=False, block=2)
    n = max(1, round(share * sum(sizes)))
    assert len(order) == n
    epochs = [{order(k) for k in range(e * n, e * n + n)} for e in range(3)]
    assert epochs[0] == epochs[1] == epochs[2] and len(epochs[0]) == n
    assert all(0 <= i < sum(sizes) for i in epochs[0])


def test_an_order_over_two_billion_samples_takes_a_few_bytes_per_shard() -> None:
    shards, each = 200_000, 10_000
    tracemalloc.start()
    for share in (1.0, 0.45):
        order = order_of(np.full(shards, each), None, 3, share=share, balanced=False, block=16)
        size = round(16 * each * share)
        first, last = ([order(k) for k in range(8 * size + at, 8 * size + at + 500)] for at in (-500, 0))
        assert len(order) == share * shards * each and len({*first, *last}) == 1000
        groups = [{i // each for i in part} for part in (first, last)]
        assert [len(g) for g in groups] == [16, 16] and not groups[0] & groups[1], "16 shards at a time, well mixed"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 128 * shards + 64 * 16 * each, "nothing that grows with the samples, but for one group's order"


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
        assert len({text.numpy().tobytes() for text in batch.texts}) == 80


def test_a_damaged_image_is_replaced_and_counted(tmp_path: Path) -> None:
    run = entry(data={"shards": str(write_shard(tmp_path / "0.tar", 0, 16, damaged=(3, 4)))}, samples=16)
    data = TrainingData(run, CONFIG, open_tokenizer(CONFIG, (), ""))
    found = list(batches(data, run, Ranks(), 0, 0))
    damaged = [d for batch in found for d in batch.damaged]
    assert len(damaged) == 2 and all("0.tar, sample" in d for d in damaged)
    assert all(len(batch.images) == 8 for batch in found)


def test_a_shard_cut_short_gives_what_is_whole(tmp_path: Path) -> None:
    first, second = write_shard(tmp_path / "0.tar", 0, 10), write_shard(tmp_path / "1.tar", 10, 10)
    second.write_bytes(second.read_bytes()[:8000])
    source = source_of(shards=[str(first), str(second), str(tmp_path / "2.tar")])
    assert 10 < len(source) < 20
    assert [Path(n.split(": ")[0]).name for n in source.notes] == ["1.tar", "2.tar"]
    assert [source.read(i)[1] for i in range(len(source))] == [(f"shade {i}",) for i in range(len(source))]


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image with a caption"):
        source_of(shards=str(tmp_path / "{0..3}.tar"))
    with pytest.raises(DataError, match="braces cannot be expanded"):
        source_of(shards=str(tmp_path / "{0..3.tar"))
    with pytest.raises(DataError, match="no shards here"):
        source_of(shards="nowhere")
    everything = tuple(range(40))
    run = entry(data={"shards": str(write_shard(tmp_path / "0.tar", 0, 40, damaged=everything))})
    data = TrainingData(run, CONFIG, open_tokenizer(CONFIG, (), ""))
    with pytest.raises(DataError, match="in a row are damaged"):
        data[0]


def test_a_csv_names_images_and_captions(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    (tmp_path / "t.csv").write_text("file,text\n" + "".join(f'{i}.png,"shade, {i}"\n' for i in range(3)))
    source = source_of(csv=tmp_path / "t.csv", csv_image="file", csv_caption="text")
    assert [source.read(i) for i in range(3)] == [(png(i), (f"shade, {i}",)) for i in range(3)]
    with pytest.raises(DataError, match="lacks the columns"):
        source_of(csv=tmp_path / "t.csv")


def test_a_table_may_be_open_clips_own_and_lack_a_value(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(png(0))
    (tmp_path / "t.csv").write_text("title\tfilepath\na shade, dark\t0.png\nno image\n", "utf-8-sig")
    source = source_of(csv=tmp_path / "t.csv")
    assert source.read(0) == (png(0), ("a shade, dark",))
    with pytest.raises(OSError, match="directory"):
        source.read(1)


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
