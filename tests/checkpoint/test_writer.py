"""Pieces written in any order, past the page cache or through it, make the same file."""

import errno
import itertools
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from soupkit.checkpoint.formats.weight_files import OPEN_CLIP_WEIGHTS
from soupkit.checkpoint.writer import PAGE, TensorWriter, lay_out
from soupkit.errors import StorageError

SIZES = {"a": 300_001, "b": 5, "c": 123_456}
LAYOUT = lay_out({name: ("U8", (size,)) for name, size in SIZES.items()}, {}, None)
CONTENT = np.random.default_rng(0).integers(0, 256, sum(SIZES.values()), dtype=np.uint8)
ALIGNED = np.empty(len(CONTENT) + 2 * PAGE, dtype=np.uint8)
ALIGNED = ALIGNED[-ALIGNED.ctypes.data % PAGE :]


def opened(directory) -> TensorWriter:
    writer = TensorWriter(directory, LAYOUT)
    writer.open(create=True)
    return writer


def in_memory(data: np.ndarray, offset: int) -> np.ndarray:
    """Copy `data` to memory that lies `offset` bytes after a page's start."""
    place = ALIGNED[offset : offset + len(data)]
    place[:] = data
    return place


def write_all(writer: TensorWriter, cuts: list[int], shift: int, order: list[int]) -> None:
    """Write the content in pieces, each `shift` bytes away in memory from where its place in the file asks it to be."""
    bounds = [0, *sorted(cuts), len(CONTENT)]
    pieces = list(itertools.pairwise(bounds))
    for i in order:
        start, stop = pieces[i % len(pieces)]
        writer.write("a", start, in_memory(CONTENT[start:stop], (writer.place("a", start) + shift) % PAGE))
    for start, stop in pieces:
        writer.write("a", start, in_memory(CONTENT[start:stop], (writer.place("a", start) + shift) % PAGE))
    writer.finish()
    writer.close()


def assert_whole(directory) -> None:
    found = load_file(directory / OPEN_CLIP_WEIGHTS)
    assert np.array_equal(np.concatenate([found[name] for name in SIZES]), CONTENT)


@settings(deadline=None)
@given(
    cuts=st.lists(st.integers(0, len(CONTENT)), max_size=4),
    shift=st.sampled_from([0, 0, 1, 512]),
    order=st.lists(st.integers(0, 9), max_size=4),
)
def test_any_cuts_in_any_order_make_the_same_file(tmp_path_factory, cuts, shift, order):
    directory = tmp_path_factory.mktemp("out")
    write_all(opened(directory), cuts, shift, order)
    assert_whole(directory)


def test_the_data_begins_at_a_page(tmp_path):
    write_all(opened(tmp_path), [], 0, [])
    with (tmp_path / OPEN_CLIP_WEIGHTS).open("rb") as file:
        assert (8 + int.from_bytes(file.read(8), "little")) % PAGE == 0


def test_whole_pages_go_past_the_page_cache(tmp_path, monkeypatch):
    writer = opened(tmp_path)
    if writer._direct == [None]:
        pytest.skip("this file system has no direct writes")
    written = []
    pwrite = os.pwrite

    def spy(descriptor, view, offset):
        n = pwrite(descriptor, view, offset)
        written.append((descriptor, offset, n))
        return n

    monkeypatch.setattr(os, "pwrite", spy)
    writer.write("a", 0, in_memory(CONTENT, 0))
    direct = [(offset, n) for descriptor, offset, n in written if descriptor == writer._direct[0]]
    assert direct == [(PAGE, len(CONTENT) // PAGE * PAGE)]
    writer.close()


@pytest.mark.parametrize("after", [0, 1])
def test_where_direct_writes_are_refused_the_page_cache_takes_over(tmp_path, monkeypatch, after):
    writer = opened(tmp_path)
    pwrite, calls = os.pwrite, []

    def refuse(descriptor, view, offset):
        if descriptor in {*writer._direct, *writer._refused}:
            calls.append(offset)
            if len(calls) > after:
                raise OSError(errno.EINVAL, "not aligned as this device asks")
            return pwrite(descriptor, view[:PAGE], offset)
        return pwrite(descriptor, view, offset)

    monkeypatch.setattr(os, "pwrite", refuse)
    can = writer._direct != [None]
    write_all(writer, [], 0, [])
    assert len(calls) == (after + 1 if can else 0), "and it is not tried again"
    assert_whole(tmp_path)


def test_a_full_disk_met_by_a_direct_write_says_so(tmp_path, monkeypatch):
    writer = opened(tmp_path)

    def full(descriptor, view, offset):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StorageError, match="disk is full"):
        writer.write("a", 0, in_memory(CONTENT, 0))
    writer.close()
