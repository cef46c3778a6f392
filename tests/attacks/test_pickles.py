"""Pickles are read as torch reads them: nothing is taken that torch refuses, and what both take is equal."""

import io
import random
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.attacks import edits
from tests.attacks.pickles import by_soupkit, by_torch, disagreement

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool)


def tensors(seed: int) -> dict[str, torch.Tensor]:
    """Tensors of several kinds: whole ones, views, transposed ones, ones of one storage, empty ones, scalars."""
    generator = torch.Generator().manual_seed(seed)
    state = {str(d): torch.randint(0, 2, (3, 4), generator=generator).to(d) for d in DTYPES}
    whole = torch.randn(6, 5, generator=generator)
    views = {"whole": whole, "rows": whole[2:4], "turned": whole.t(), "strided": whole[::2, 1::2], "one": whole[1, 1]}
    return {
        **state,
        **views,
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(2.5),
        "repeated": whole[:1].expand(4, 5),
    }


def saved(document: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(document, buffer)
    return buffer.getvalue()


def differences(data: Iterable[bytes]) -> list[str]:
    with TemporaryDirectory() as place:
        path, found = Path(place) / "a.pt", []
        for content in data:
            path.write_bytes(content)
            found.append(disagreement(path))
    return [difference for difference in found if difference]


@pytest.mark.parametrize(
    "document",
    [
        tensors(0),
        {"state_dict": tensors(1), "epoch": 3, "args": {"lr": 1e-3, "names": ["a", "b"], "pair": (1, None)}},
        {name: torch.nn.Parameter(t) for name, t in tensors(2).items() if t.is_floating_point()},
        torch.nn.Linear(3, 4).state_dict(),
    ],
    ids=["tensors", "checkpoint", "parameters", "module"],
)
def test_all_of_what_torch_saves_is_read_as_torch_reads_it(document: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(saved(document))
    ours, theirs = by_soupkit(path), by_torch(path)
    assert ours is not None and isinstance(theirs, dict) and ours.keys() == theirs.keys()
    assert disagreement(path) is None


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(0, 3), st.integers(0, 2**32), st.integers(1, 4))
def test_what_is_damaged_is_read_as_torch_reads_it_or_refused(seed: int, drawn: int, times: int) -> None:
    draw, data = random.Random(drawn), saved({"state_dict": tensors(seed), "epoch": 3})
    for _ in range(times):
        data = edits.edit_zip(draw, data)
    assert not differences([data])
