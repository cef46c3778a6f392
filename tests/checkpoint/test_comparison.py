"""How far checkpoints are apart, and the verdict on their lineage."""

from pathlib import Path

import numpy as np
import pytest
import torch

from soupkit.checkpoint import compare, open_checkpoint
from soupkit.checkpoint.lineage import compare_weights
from soupkit.errors import UsageError
from tests.conftest import as_numpy, random_state, save


def flat(state: dict[str, torch.Tensor], image: bool) -> np.ndarray:
    matrices = [as_numpy(t).ravel() for n, t in state.items() if t.ndim >= 2 and n.startswith("visual.") == image]
    return np.concatenate(matrices)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_distances_and_cosines_are_those_of_float64_arithmetic(dtype: torch.dtype, tmp_path: Path) -> None:
    states = [random_state(i, dtype) for i in range(3)]
    paths = [save(tmp_path / str(i), s) for i, s in enumerate(states)]
    found = compare(paths[:2], weights=True, base=paths[2])
    assert found.related
    for pair in found.pairs:
        a, b, base = (flat(s, pair.tower == "image") for s in states)
        norms = np.sqrt(np.linalg.norm(a) * np.linalg.norm(b))
        assert pair.distance == pytest.approx(np.linalg.norm(a - b) / norms, rel=1e-4)
        assert pair.cosine == pytest.approx(a @ b / norms**2, rel=1e-5)
        x, y = a - base, b - base
        assert pair.task_cosine == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), abs=1e-4)


def test_independently_trained_weights_are_found_out(tmp_path: Path) -> None:
    paths = [save(tmp_path / str(i), random_state(i, spread=30)) for i in range(2)]
    found = compare(paths, weights=True)
    assert found.mergeable and found.related is False
    assert found.lineage is not None and "independently trained" in found.lineage


def test_what_is_no_clip_has_no_towers(tmp_path: Path) -> None:
    states = [{"layers.0.weight": torch.randn(40, 40, generator=torch.Generator().manual_seed(i))} for i in range(2)]
    found = compare([save(tmp_path / str(i), state) for i, state in enumerate(states)], weights=True)
    assert [pair.tower for pair in found.pairs] == ["whole"]
    assert found.lineage is not None and "their weights are" in found.lineage


def test_a_sample_of_the_weights_gives_the_same_verdict(tmp_path: Path) -> None:
    for spread, apart in ((0.01, False), (30.0, True)):
        paths = [save(tmp_path / f"{spread}{i}", random_state(i, spread=spread)) for i in range(2)]
        with open_checkpoint(paths[0]) as a, open_checkpoint(paths[1]) as b:
            assert all((p.distance >= 1) == apart for p in compare_weights([a, b], sample=True))


def test_opposed_task_vectors_are_said(tmp_path: Path) -> None:
    base, step = random_state(0), random_state(5)
    paths = [save(tmp_path / str(k), {n: base[n] + k * 0.01 * step[n] for n in base}) for k in (1, -1)]
    found = compare(paths, weights=True, base=save(tmp_path / "base", base))
    assert found.related and found.lineage is not None and "opposed" in found.lineage


def test_what_differs_is_listed(tmp_path: Path) -> None:
    state = random_state(1)
    other = dict(state, extra=torch.zeros(2), text_projection=torch.zeros(2, 2))
    del other["logit_scale"]
    found = compare([save(tmp_path / "a", state), save(tmp_path / "b", other)])
    differences = found.tensors[1]
    assert (differences.missing, differences.unexpected) == (("logit_scale",), ("extra",))
    assert differences.reshaped == {"text_projection": ((33, 12), (2, 2))}
    assert not found.mergeable


def test_comparing_takes_two(three: list[Path]) -> None:
    with pytest.raises(UsageError):
        compare(three[:1])
