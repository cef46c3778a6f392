"""How the cores of a machine are shared, and how a GPU rounds."""

import pytest
import torch

from soupkit.training.cpu_share import products_rounded, share_of_cores


@pytest.mark.parametrize(
    ("cores", "options", "variables", "found"),
    [
        (2, {}, {}, (2, 2, True)),
        (1, {}, {}, (0, 1, False)),
        (2, {"workers": 1}, {}, (1, 2, True)),
        (16, {"threads": 12}, {}, (4, 12, False)),
        (16, {"cores": 4}, {}, (4, 4, True)),
        (8, {}, {"LOCAL_WORLD_SIZE": "2"}, (4, 4, True)),
        (8, {}, {"OMP_NUM_THREADS": "3"}, (5, 3, False)),
    ],
)
def test_cores_read_and_compute_by_turns_where_there_are_not_enough_for_both(
    cores: int, options: dict[str, int], variables: dict[str, str], found: tuple[int, int, bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr("torch.get_num_threads", lambda: int(variables.get("OMP_NUM_THREADS", "0")))
    asked = {"workers": None, "threads": None, "cores": None, **options}
    shared = share_of_cores(**asked, gpu=False)
    assert (shared.workers, shared.threads, shared.by_turns) == found


def test_tf32_is_for_a_gpu_and_for_as_long_as_a_run_lasts() -> None:
    before = torch.get_float32_matmul_precision()
    for precision, device, during in (("tf32", "cuda", "high"), ("tf32", "cpu", before), ("fp32", "cuda", before)):
        with products_rounded(precision, torch.device(device)):
            assert torch.get_float32_matmul_precision() == during
        assert torch.get_float32_matmul_precision() == before
