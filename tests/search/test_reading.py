"""How a search reads its ingredients: one that is cut short is an error, and what is held does not grow with them."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from soupkit.checkpoint.reference import open_checkpoint
from soupkit.errors import CheckpointError
from soupkit.evaluation import EvaluationOptions, Evaluator
from soupkit.merging.blocks import CPU_BLOCK, block_size
from soupkit.merging.slab_worker import SlabWorker
from soupkit.search import interpolate
from soupkit.search.candidate import Soup, uniform
from soupkit.search.hits_file import HitsFile
from soupkit.search.running_sum import RunningSum
from tests.processes import call

WEIGHTS = "open_clip_model.safetensors"
ELEMENTS = 1 << 22  # of the one tensor of the wide models, in bfloat16: 8 MiB


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(ELEMENTS, dtype=torch.bfloat16), requires_grad=False)


def wide_ingredients(place: Path, count: int) -> list[Path]:
    found = []
    for i in range(count):
        found.append(place / f"{i}.safetensors")
        save_file({"weight": torch.full((ELEMENTS,), float(i), dtype=torch.bfloat16)}, found[-1])
    return found


def peak() -> int:
    """The most memory that this process has held, in bytes: mapped pages of files count."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def fill_all_soups(paths: list[Path]) -> None:
    """Fill a model with every kind of soup of 2 ingredients, and then of all; the peak is to be the same."""
    ingredients = [open_checkpoint(path) for path in paths]
    core, peaks = RunningSum(Wide().state_dict(), ingredients), []
    for n in (2, len(paths)):
        members, shares = tuple(range(n)), (("*", tuple(1 / n for _ in range(n))),)
        for m in members:
            core.fill(uniform([m]))
        core.keep(members[:-1])
        core.fill(uniform(members))
        core.fill(uniform(members[::-1]))
        core.fill(Soup(members, shares))
        peaks.append(peak())
    assert core.differences(ingredients[-1]) == ["weight"]
    grown = peaks[1] - peaks[0]
    # A sum, in float32, may come to lie elsewhere in the heap than the one before it.
    assert grown < ELEMENTS * 4 * 1.5, f"{grown / 1e6:.1f} MB more with {len(paths)} ingredients than with 2"


def test_what_a_search_holds_does_not_grow_with_the_ingredients(tmp_path: Path) -> None:
    done = call(fill_all_soups, wide_ingredients(tmp_path, 12))  # 80 MiB more than two
    assert done.returncode == 0, done.stderr


def cut(place: Path) -> bytes:
    """Cut the weights of an ingredient to half; returns what they were."""
    whole = (place / WEIGHTS).read_bytes()
    with (place / WEIGHTS).open("r+b") as file:
        file.truncate(len(whole) // 2)
    return whole


def cut_when(fills: int, place: Path, monkeypatch: pytest.MonkeyPatch, at: tuple[type, str]) -> list[bytes]:
    """Cut the weights of `place` after so many calls of a method; returns where they will be."""
    plain, calls, whole = getattr(*at), [], []

    def counting(*arguments: Any) -> Any:
        calls.append(None)
        if len(calls) == fills + 1:
            whole.append(cut(place))
        return plain(*arguments)

    monkeypatch.setattr(*at, counting)
    return whole


@pytest.mark.parametrize("strategy", ["greedy", "weights"])
def test_an_ingredient_that_is_cut_short_in_a_search_is_named_and_once_mended_the_search_goes_on(
    search: Any, fine_tunes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    options = {
        "evaluation": EvaluationOptions(cache=tmp_path / "cache", limit=60, batch_size=16, device="cpu", scores=False),
        "strategy": strategy, **({"budget": 4} if strategy == "weights" else {}),
    }  # fmt: skip
    refs = [shutil.copytree(path, tmp_path / path.name) for path in fine_tunes[:3]]
    want = search("whole", refs=refs, **options)
    with monkeypatch.context() as patch:
        whole = cut_when(4, refs[1], patch, (RunningSum, "fill"))
        with pytest.raises(CheckpointError, match=rf"{refs[1].name}/{WEIGHTS}.*ends at byte"):
            search(refs=refs, **options)
    with pytest.raises(CheckpointError, match=refs[1].name):
        search(refs=refs, **options)
    assert (tmp_path / "soup.partial" / "journal.jsonl").stat().st_size > 0 and not (tmp_path / "soup").exists()
    (refs[1] / WEIGHTS).write_bytes(whole[0])
    found = search(refs=refs, **options)
    for field in ("selected", "weights", "decisions", "images_scored", "images_full"):
        assert found.document.to_dict()[field] == want.document.to_dict()[field]


def test_an_ingredient_that_is_cut_short_while_the_soup_is_written_leaves_the_journal(
    search: Any, fine_tunes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = [shutil.copytree(path, tmp_path / path.name) for path in fine_tunes[:2]]
    with monkeypatch.context() as patch:
        whole = cut_when(0, refs[0], patch, (SlabWorker, "run"))
        with pytest.raises(CheckpointError, match=refs[0].name):
            search(refs=refs)
    (refs[0] / WEIGHTS).write_bytes(whole[0])
    add, scored = HitsFile.add, set()

    def counting(self: HitsFile, images: np.ndarray, flags: np.ndarray) -> None:
        scored.add(self.path.name)
        add(self, images, flags)

    monkeypatch.setattr(HitsFile, "add", counting)
    assert search(refs=refs).status == "written"
    assert len(scored) <= 1, "what was scored before the soup was written is known; the uniform soup may not be"


def test_a_fine_tune_that_is_cut_short_on_a_curve_is_named_and_once_mended_the_curve_goes_on(
    fine_tunes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = EvaluationOptions(cache=tmp_path / "cache", limit=40, batch_size=16, device="cpu")
    far = shutil.copytree(fine_tunes[1], tmp_path / "far")
    with monkeypatch.context() as patch:
        whole = cut_when(2, far, patch, (Evaluator, "run"))  # the third point is scored, the fourth cannot be filled
        with pytest.raises(CheckpointError, match=rf"far/{WEIGHTS}.*ends at byte"):
            interpolate(fine_tunes[0], [far], tasks=["digits"], points=5, evaluation=options)
    (far / WEIGHTS).write_bytes(whole[0])
    with monkeypatch.context() as patch:
        plain, calls = Evaluator.run, []
        patch.setattr(Evaluator, "run", lambda *a, **k: (calls.append(None), plain(*a, **k))[1])
        curve = interpolate(fine_tunes[0], [far], tasks=["digits"], points=5, evaluation=options)
    assert len(calls) == 2 and len(curve.document.to_dict()["points"]) == 5


def test_the_blocks_of_a_merge_of_many_take_the_room_of_those_of_few() -> None:
    sizes = {n: block_size(CPU_BLOCK, n) for n in (1, 3, 4, 5, 8, 12, 32)}
    assert sizes[1] == sizes[3] == sizes[4] == CPU_BLOCK and CPU_BLOCK % sizes[32] == 0
    assert all(n * size <= 4 * CPU_BLOCK for n, size in sizes.items())
    assert sizes[12] > CPU_BLOCK // 8
