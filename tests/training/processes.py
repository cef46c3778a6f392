"""Runs a function in several processes that form a gloo group, and returns what each one returned."""

import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import torch

from soupkit.ranks import Ranks
from tests.processes import SERVER


def in_processes(size: int, work: Callable[..., Any], *arguments: Any, timeout: float = 120) -> list[Any]:
    """Call `work(ranks, *arguments)` on each of `size` ranks; AssertionError with the traceback of one that fails."""
    answers: Queue[Any] = SERVER.Queue()
    found: dict[int, Any] = {}
    with tempfile.TemporaryDirectory() as directory:
        store = Path(directory) / "store"
        processes = [
            SERVER.Process(target=_member, args=(Ranks(rank, size, rank), store, answers, work, arguments), daemon=True)
            for rank in range(size)
        ]
        for process in processes:
            process.start()
        try:
            for _ in processes:
                rank, value, failure = answers.get(timeout=timeout)
                assert not failure, failure
                found[rank] = value
        finally:
            for process in processes:
                if len(found) < size:
                    process.kill()
                process.join()
    return [found[rank] for rank in range(size)]


def _member(ranks: Ranks, store: Path, answers: "Queue[Any]", work: Callable[..., Any], arguments: Any) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=ranks.rank, world_size=ranks.size)
    try:
        # Tensors travel as NumPy arrays: torch's own way shares memory with a process that is gone by then.
        answers.put((ranks.rank, _plain(work(ranks, *arguments)), ""))
    except BaseException:
        answers.put((ranks.rank, None, traceback.format_exc()))
        raise
    finally:
        torch.distributed.destroy_process_group()


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().numpy()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
