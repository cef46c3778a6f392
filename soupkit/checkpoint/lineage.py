"""How far apart the weights of checkpoints are, and whether they look like fine-tunes of one model.

Only tensors of two or more dimensions count: the gains and biases of any two networks resemble each other. Distances
are relative to the weights themselves, ||a - b|| / sqrt(||a|| ||b||): fine-tunes of one model lie well under 1,
networks trained from different starts near sqrt(2), as any two random vectors do. From 1 on two models are farther
from each other than from zero, and their average is likely to be worthless (Neyshabur et al. 2020,
https://arxiv.org/abs/2008.11687, on when averages of networks work).
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from math import sqrt
from pathlib import Path

import numpy as np

from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.dtypes import DTYPES
from soupkit.checkpoint.run_record import record_of
from soupkit.checkpoint.towers import is_image
from soupkit.progress import SILENT, Progress

WHOLE = "whole"
UNRELATED = 1.0
OPPOSED = -0.2
_BLOCK = 1 << 18  # elements; small enough for float32 sums within a block, which are then added in float64
_SAMPLED_TENSORS = 64
_SAMPLED_ELEMENTS = 1 << 14


@dataclass(frozen=True, slots=True)
class Pair:
    """Two of the compared checkpoints (by position) in one tower: "image" or "text", or "whole" where it is no CLIP.

    `distance` is relative; `cosine` is that of the weights; `task_cosine` that of the differences from the base, None
    without a base or where one of them is zero.
    """

    first: int
    second: int
    tower: str
    distance: float
    cosine: float
    task_cosine: float | None


def compare_weights(
    checkpoints: Sequence[Checkpoint],
    base: Checkpoint | None = None,
    *,
    sample: bool = False,
    threads: int = 2,
    progress: Progress = SILENT,
) -> list[Pair]:
    """Stream through the weights of mergeable `checkpoints` and compare each pair, per tower.

    Memory is a few blocks per thread. With `sample` only 16 Ki elements of up to 64 tensors are read. Raises
    CheckpointError as reading does.
    """
    sources = [*checkpoints, base] if base is not None else list(checkpoints)
    jobs = list(_jobs(checkpoints[0], sample))
    total = sum(stop - start for _, start, stop in jobs)
    progress.start("comparing weights", total, "weights")
    towers = ("image", "text") if any(map(is_image, checkpoints[0])) else (WHOLE,)
    grams = {tower: np.zeros((len(sources),) * 2) for tower in towers}
    shifted = {tower: gram.copy() for tower, gram in grams.items()}

    @np.errstate(invalid="ignore", over="ignore")  # weights that are not finite are refused elsewhere, with their name
    def work(job: tuple[str, int, int]) -> tuple[str, np.ndarray, np.ndarray]:
        name, start, stop = job
        x = np.stack([read_float32(source, name, start, stop) for source in sources])
        gram = (x @ x.T).astype(np.float64)
        x -= x[-1].copy()  # differences are taken before the products, so that near models keep their digits
        progress.advance(stop - start)
        return towers[0 if is_image(name) else -1], gram, (x @ x.T).astype(np.float64)

    with ThreadPoolExecutor(threads) as pool:
        for tower, gram, shift in pool.map(work, jobs):
            grams[tower] += gram
            shifted[tower] += shift
    progress.finish()
    pairs = combinations(range(len(checkpoints)), 2)
    return [_pair(i, j, t, grams[t], shifted[t], base is not None) for i, j in pairs for t in grams if grams[t].any()]


def _jobs(first: Checkpoint, sample: bool) -> Iterator[tuple[str, int, int]]:
    names = [n for n, s in first.tensors.items() if s.is_float and len(s.shape) >= 2 and s.numel]
    if sample:
        step = max(1, len(names) // _SAMPLED_TENSORS)
        for name in names[::step]:
            yield name, 0, min(_SAMPLED_ELEMENTS, first.tensors[name].numel)
        return
    for name in names:
        n = first.tensors[name].numel
        for start in range(0, n, _BLOCK):
            yield name, start, min(start + _BLOCK, n)


def read_float32(checkpoint: Checkpoint, name: str, start: int, stop: int) -> np.ndarray:
    """Return elements `start` to `stop` of float tensor `name`, 1-D float32 (float64 is rounded)."""
    spec = checkpoint.tensors[name]
    raw = np.empty((stop - start) * spec.itemsize, dtype=np.uint8)
    checkpoint.read_into(name, start * spec.itemsize, raw)
    if spec.dtype == "BF16":  # the upper half of a float32
        return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    if spec.itemsize == 1:
        return _values_of_8_bits(spec.dtype)[raw]
    return raw.view({"F16": np.float16, "F32": np.float32, "F64": np.float64}[spec.dtype]).astype(np.float32)


@cache
def _values_of_8_bits(dtype: str) -> np.ndarray:
    """Return the 256 values of a float of 8 bits, float32."""
    import torch

    return torch.arange(256, dtype=torch.uint8).view(getattr(torch, DTYPES[dtype].torch_name)).float().numpy()


@np.errstate(invalid="ignore", over="ignore")
def _pair(i: int, j: int, tower: str, gram: np.ndarray, shifted: np.ndarray, has_base: bool) -> Pair:
    lengths = sqrt(gram[i, i]) * sqrt(gram[j, j])
    square = max(0.0, float(shifted[i, i] + shifted[j, j] - 2 * shifted[i, j]))
    steps = sqrt(shifted[i, i]) * sqrt(shifted[j, j])
    return Pair(
        i,
        j,
        tower,
        distance=sqrt(square / lengths) if lengths else 0.0,
        cosine=float(gram[i, j]) / lengths if lengths else 1.0,
        task_cosine=float(shifted[i, j]) / steps if has_base and steps else None,
    )


def verdict(pairs: Sequence[Pair], refs: Sequence[str]) -> tuple[bool, str]:
    """Judge the lineage: whether the checkpoints look like fine-tunes of one model, and a sentence that says it."""
    if not pairs:
        return True, "there are no weight matrices to compare"
    worst = max(pairs, key=lambda p: p.distance)
    names = f"{refs[worst.first]} and {refs[worst.second]}"
    if worst.distance >= UNRELATED:
        return False, (
            f"{names} look independently trained: {_tower(worst.tower, 'their', 's are')} {worst.distance:.2f} apart, "
            "relative to their own size; the average is likely to be worthless"
        )
    opposed = [p for p in pairs if p.task_cosine is not None and p.task_cosine < OPPOSED]
    if opposed:
        far = min(opposed, key=lambda p: p.task_cosine or 0.0)
        return True, (
            f"one lineage, but {refs[far.first]} and {refs[far.second]} moved in opposed directions from the base "
            f"(cosine {far.task_cosine:.2f} in {_tower(far.tower, 'the')}): averaging undoes what they learned"
        )
    where = names if worst.tower == WHOLE else f"{names}, {worst.tower} tower"
    return True, f"one lineage: the largest relative distance is {worst.distance:.2g} ({where})"


def _tower(tower: str, article: str, end: str = "") -> str:
    """Say which weights are meant: "their image towers are", or "their weights are" of what has no towers."""
    return f"{article} weights{end[1:]}" if tower == WHOLE else f"{article} {tower} tower{end}"


def recorded_lineage(paths: Sequence[Path], refs: Sequence[str]) -> str | None:
    """Say what the runs' own records (`training.json`) tell of their parents; None where not all of them have one."""
    ancestors: list[tuple[str, ...]] = []
    for path in paths:
        record = record_of(path)
        if record is None:
            return None
        ancestors.append((record.output.fingerprint, *record.lineage))
    shared = [a for a in ancestors[0] if all(a in other for other in ancestors[1:])]
    if shared:
        return f"their training records name a common ancestor, {shared[0]}"
    roots = ", ".join(f"{ref} from {line[-1]}" for ref, line in zip(refs, ancestors, strict=False))
    return f"their training records name no common ancestor: {roots}"
