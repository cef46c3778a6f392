"""Several processes working on one job under `torchrun`: who does what, and how they tell each other."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from soupkit.errors import SoupkitError

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among `size` processes; `local` is its number on its own machine."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def leads(self) -> bool:
        """Whether this is the process that prepares and finishes the output."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's `value`, on every rank. Raises SoupkitError when one of them has ended."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(values, value)
        except RuntimeError as error:  # a connection is gone; each backend has its own words for it
            raise SoupkitError(
                f"another of the {self.size} processes of this run has ended",
                f"rank {self.rank}",
                "see what it said, then run the same command again",
            ) from error
        return values

    def together(self, work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """Call `work` on every rank; when it fails on one, raise that error on all of them."""
        error: BaseException | None = None
        result: Any = None
        try:
            result = work(*arguments, **options)
        except (SoupkitError, OSError) as caught:
            error = caught
        for other in self.gather(error):
            if other is not None:
                raise error or other
        return result

    def lead(self, work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """Call `work` on the first rank, and return its result on all of them; when it fails, raise that on all."""

        def on_the_first() -> T | None:
            return work(*arguments, **options) if self.leads else None

        return self.gather(self.together(on_the_first))[0]


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Yield this process's place among those that `torchrun` started, if it did.

    A process group that is there already is used and left alone; one that is made here is ended here.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "MASTER_ADDR" not in os.environ:
        yield Ranks()
        return
    import torch
    import torch.distributed as dist

    ours = not dist.is_initialized()
    if ours:
        # Objects go over the CPU, and so do tensors that are there; NCCL starts only when a GPU's tensor is sent.
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))
    finally:
        if ours:
            dist.destroy_process_group()
