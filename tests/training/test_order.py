"""The order of the data: what an epoch holds, in which proportions, and in how much memory."""

import tracemalloc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from soupkit.training.order import Mixture, Shuffled, order_of


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
