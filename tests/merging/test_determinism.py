"""The same recipe gives the same bytes, however the work is cut and whoever does it."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from soupkit.checkpoint import fingerprint, open_checkpoint
from soupkit.merging import RunOptions, engine, merge, run_merge
from soupkit.merging.registry import METHODS as METHODS_OF_THE_TABLE
from soupkit.ranks import Ranks
from tests.conftest import bytes_of, random_state, save
from tests.merging.references import CASES, Case
from tests.processes import on_ranks, start_torchrun

METHODS: list[dict[str, Any]] = [
    {"method": "uniform"},
    {"weights": [3, 1]},
    {"method": "interpolate", "base": True, "parameters": {"alpha": {"gradient": [0.1, 0.9]}}},
    {"method": "task_arithmetic", "base": True, "parameters": {"scale": [0.3, 0.6]}},
    {"method": "slerp"},
]


@pytest.fixture(scope="module", params=[torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
def trio(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("trio")
    states = [random_state(i, request.param) for i in range(3)]
    for i, state in enumerate(states):  # one tensor of a fingerprint's chunk and a bit
        generator = torch.Generator().manual_seed(i)
        state["visual.proj"] = torch.randn(8200 // request.param.itemsize, 2087, generator=generator).to(request.param)
    return [save(root / f"{i}", state) for i, state in enumerate(states)]


def run(trio: list[Path], how: dict[str, Any], output: Path, **options: Any) -> str:
    arguments = {**how, "base": trio[2] if how.get("base") else None}
    result = merge(trio[:2], output, **arguments, options=RunOptions(**{"device": "cpu", **options}))
    assert result.fingerprint is not None
    return result.fingerprint


@pytest.mark.parametrize("how", METHODS, ids=lambda h: h.get("method", "linear"))
def test_slab_size_threads_and_forks_leave_no_trace(
    trio: list[Path], how: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forks: list[int] = []
    run_in_forks = engine.run_in_forks
    monkeypatch.setattr(engine, "run_in_forks", lambda n, *rest: (forks.append(n), run_in_forks(n, *rest)))
    prints = set()
    cuts = [(1, 1, 1 << 60), (7_000_000, 3, 1 << 60), (1 << 30, 2, 1 << 60), (7_000_000, 2, 0), (1, 3, 0)]
    for i, (slab, threads, fork_bytes) in enumerate(cuts):
        monkeypatch.setattr(engine, "FORK_BYTES", fork_bytes)
        prints.add(run(trio, how, tmp_path / str(i), slab_bytes=slab, threads=threads))
    assert forks == [2, 3]
    assert len(prints) == 1
    weights = {bytes_of(tmp_path / str(i))["open_clip_model.safetensors"] for i in range(len(cuts))}
    assert len(weights) == 1


def test_fingerprints_taken_while_merging_are_those_of_the_files(trio: list[Path], tmp_path: Path) -> None:
    result = merge(trio, tmp_path / "out", options=RunOptions(device="cpu"))
    for entry, path in zip(result.ingredients, trio, strict=True):
        with open_checkpoint(path) as checkpoint:
            assert fingerprint(checkpoint).value == entry["fingerprint"]
    with open_checkpoint(tmp_path / "out") as soup:
        assert fingerprint(soup).value == result.fingerprint


@pytest.fixture(scope="module", params=[torch.bfloat16, torch.float64], ids=str)
def quartet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three ingredients and their base, with a tensor of a bit more than a fingerprint's chunk of float64."""
    root, made = tmp_path_factory.mktemp("quartet"), []
    for i in range(4):
        generator = torch.Generator().manual_seed(i)
        state = random_state(i, request.param)
        state["visual.proj"] = torch.randn(1025, 2087, generator=generator).to(request.param)
        made.append(save(root / f"{i}", state))
    return made


@pytest.fixture(scope="module")
def small_quartet(quartet: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same without the large tensor, whose factorisations would take most of the time of these tests."""
    root = tmp_path_factory.mktemp("small")
    states = [load_file(path / "open_clip_model.safetensors") for path in quartet]
    return [
        save(root / f"{i}", {name: tensor for name, tensor in state.items() if name != "visual.proj"})
        for i, state in enumerate(states)
    ]


def run_case(case: Case, models: list[Path], output: Path, **options: Any) -> str:
    base, parameters = (models[-1] if case.base else None), case.parameters
    result = merge(
        models[: case.ingredients],
        output,
        method=case.method,
        base=base,
        parameters=parameters,
        options=RunOptions(**{"device": "cpu", **options}),
    )
    assert result.fingerprint is not None
    return result.fingerprint


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_method_leaves_a_trace_of_slabs_threads_or_forks(
    quartet: list[Path], small_quartet: list[Path], case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prints, models = set(), quartet if METHODS_OF_THE_TABLE[case.method].exact is not False else small_quartet
    for i, (slab, threads, fork_bytes) in enumerate([(1, 1, 1 << 60), (1 << 30, 3, 1 << 60), (1_000_000, 2, 0)]):
        monkeypatch.setattr(engine, "FORK_BYTES", fork_bytes)
        prints.add(run_case(case, models, tmp_path / str(i), slab_bytes=slab, threads=threads))
    assert len(prints) == 1


class Meeting:
    """Where ranks that are threads of one process tell each other what they have."""

    def __init__(self, size: int) -> None:
        self.values: list[Any] = [None] * size
        self.barrier = threading.Barrier(size, timeout=60)

    def exchange(self, rank: int, value: Any) -> list[Any]:
        self.values[rank] = value
        self.barrier.wait()
        values = list(self.values)
        self.barrier.wait()
        return values


@dataclass(frozen=True)
class ThreadRanks(Ranks):
    meeting: Meeting = field(default_factory=lambda: Meeting(1))

    def gather(self, value: Any) -> list[Any]:
        return self.meeting.exchange(self.rank, value)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_method_leaves_a_trace_of_the_ranks(
    small_quartet: list[Path], case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = run_case(case, small_quartet, tmp_path / "alone", threads=1)
    meeting, mine = Meeting(2), threading.local()

    def start(rank: int) -> str:
        mine.ranks = ThreadRanks(rank, 2, rank, meeting)
        try:
            return run_case(case, small_quartet, tmp_path / "ranks", threads=1, slab_bytes=1000)
        except BaseException:
            meeting.barrier.abort()
            raise

    monkeypatch.setattr(run_merge, "joined_ranks", lambda: nullcontext(mine.ranks))
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(start, range(2))) == [alone, alone]


def test_processes_share_surveys(quartet: list[Path], tmp_path: Path) -> None:
    (case, *_) = [c for c in CASES if c.method == "ties" and c.of_the_model]
    alone = run_case(case, quartet, tmp_path / "alone")
    done = on_ranks(
        2, "merge", *quartet[:3], "--method", case.method, "--base", quartet[3], "-o", tmp_path / "ranks",
        "--device=cpu", "--slab-size=1kB", "--json",
    )  # fmt: skip
    assert [d.returncode for d in done] == [0, 0], [d.stderr for d in done]
    assert json.loads(done[0].stdout)["fingerprint"] == alone


def is_exact(case: Case) -> bool:
    return METHODS_OF_THE_TABLE[case.method].is_exact(case.parameters)


@pytest.mark.gpu
@pytest.mark.parametrize("case", [c for c in CASES if is_exact(c)], ids=str)
def test_cuda_gives_the_bytes_of_the_cpu_for_every_exact_method(
    quartet: list[Path], case: Case, tmp_path: Path
) -> None:
    on_cpu = run_case(case, quartet, tmp_path / "cpu")
    assert run_case(case, quartet, tmp_path / "cuda", device="cuda", threads=2) == on_cpu


@pytest.mark.parametrize("how", METHODS, ids=lambda h: h.get("method", "linear"))
def test_three_ranks_write_the_bytes_that_one_process_writes(
    three: list[Path], how: dict[str, Any], tmp_path: Path
) -> None:
    arguments = {**how, "base": three[2] if how.get("base") else None}
    alone = merge(three[:2], tmp_path / "alone", **arguments, options=RunOptions(device="cpu"))
    options = [f"--weight={w}" for w in how.get("weights", [])]
    options += [f"--method={how['method']}"] if "method" in how else []
    options += [f"--base={three[2]}"] if how.get("base") else []
    options += [f"--param={key}={json.dumps(value)}" for key, value in how.get("parameters", {}).items()]
    done = on_ranks(
        3, "merge", *three[:2], *options, "-o", tmp_path / "ranks", "--device=cpu", "--slab-size=1kB", "--json"
    )
    assert [d.returncode for d in done] == [0, 0, 0], [d.stderr for d in done]
    assert alone.fingerprint is not None and alone.fingerprint == json.loads(done[0].stdout)["fingerprint"]
    assert not done[1].stdout and not done[2].stdout, "one of them speaks"
    assert bytes_of(tmp_path / "ranks") == bytes_of(tmp_path / "alone")
    assert not (tmp_path / "ranks.partial").exists()


def test_an_error_on_one_rank_ends_all_of_them_with_nothing_written(three: list[Path], tmp_path: Path) -> None:
    state = random_state(5, torch.bfloat16)
    state["token_embedding.weight"][5, 5] = float("nan")
    bad = save(tmp_path / "bad", state)
    arguments = ["merge", three[0], bad, "-o", tmp_path / "out", "--device", "cpu", "--slab-size", "1kB"]
    done = start_torchrun(2, *arguments).wait()
    assert done.returncode != 0
    assert done.stderr.count("tensor 'token_embedding.weight'") == 1
    assert "soupkit/merging" not in done.stderr, "torchrun shows a traceback of its own; soupkit's is no part of it"
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize(
    ("method", "parameters", "exact"),
    [("nuslerp", {}, True), ("nuslerp", {"over": "rows"}, False), ("model_stock", {"over": "rows"}, False)],
)
def test_what_may_differ_between_machines_is_said(
    method: str, parameters: dict[str, Any], exact: bool, small_quartet: list[Path], tmp_path: Path
) -> None:
    result = merge(
        small_quartet[:2], tmp_path / "soup", method=method, base=small_quartet[3], parameters=parameters,
        options=RunOptions(dry_run=True),
    )  # fmt: skip
    assert any("may differ in its last bits" in note for note in result.notes) != exact


@pytest.mark.gpu
@pytest.mark.parametrize("how", METHODS, ids=lambda h: h.get("method", "linear"))
def test_cuda_gives_the_bytes_of_the_cpu(trio: list[Path], how: dict[str, Any], tmp_path: Path) -> None:
    on_cpu = run(trio, how, tmp_path / "cpu")
    assert run(trio, how, tmp_path / "cuda", device="cuda", threads=3, slab_bytes=1 << 20) == on_cpu
