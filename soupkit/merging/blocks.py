"""Blocks: what a worker holds at a time of every source, cut from a slab."""

from collections.abc import Iterator

from soupkit.merging.plan import Segment, Slab

# Elements per block on the CPU. Small blocks drown in interpreter overhead, large ones leave the processor's cache: a
# uniform merge of three bf16 ViT-bigG-14 by two workers took 3.9 to 4.5 s with 512 Ki, 5.0 to 5.4 s with 256 Ki, 4.1 to
# 4.8 s with 1 Mi. Positioned reads into such blocks cost about what faults on a memory map do, and a file that shrinks
# under them is an error where a map would end the process.
CPU_BLOCK = 1 << 19
CUDA_BLOCK = 1 << 23
# Blocks of more sources than this are smaller, so that a merge of many takes the memory of a merge of few.
_FEW_SOURCES, _LEAST_BLOCK = 4, 1 << 16


def block_size(largest: int, sources: int) -> int:
    """Return the elements of a block, a power of two: with many sources all of their blocks take the room of few."""
    size = largest
    while size > _LEAST_BLOCK and size * sources > largest * _FEW_SOURCES:
        size //= 2
    return size


def blocks(slab: Slab, size: int, first: int) -> Iterator[tuple[tuple[int, Segment], ...]]:
    """Cut a slab into blocks of `size` elements (the first: of `first`; the last may be shorter).

    Each is a run of pieces, with the numbers of the segments that they are of.
    """
    room = first
    block: list[tuple[int, Segment]] = []
    for i, segment in enumerate(slab.segments):
        start = segment.start
        while start < segment.stop:
            stop = min(start + room, segment.stop)
            block.append((i, Segment(segment.tensor, start, stop)))
            room -= stop - start
            start = stop
            if not room:
                yield tuple(block)
                block, room = [], size
    if block:
        yield tuple(block)
