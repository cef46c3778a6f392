"""Checkpoints of a run while it goes on, written by torch.distributed.checkpoint in the background.

OUT.partial/checkpoints/N            after N samples; the newest few are kept
OUT.partial/checkpoints/N.partial    being written
"""

import shutil
import warnings
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import CheckpointException

from soupkit.errors import StorageError
from soupkit.ranks import Ranks

# torch says so at every checkpoint of a run in one process, where it is meant.
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")

CHECKPOINTS_NAME = "checkpoints"
_WRITING = ".partial"


class Checkpoints:
    """The checkpoints of one run. One is written at a time, in the background; it gets its name when it is whole."""

    def __init__(self, directory: Path, keep: int, ranks: Ranks) -> None:
        self.directory = directory
        self._keep = keep
        self._ranks = ranks
        self._pending: tuple[Future[Any], int] | None = None
        # A group of its own: what the writing thread says to other ranks must not mix with what the step says.
        self._group: Any = dist.new_group(backend="gloo") if ranks.size > 1 else None

    def newest(self) -> int | None:
        """Return after how many samples the newest whole checkpoint was written; None where there is none."""
        whole = self._ranks.lead(self._whole)
        return whole[-1] if whole else None

    def _whole(self) -> list[int]:
        if not self.directory.is_dir():
            return []
        return sorted(int(p.name) for p in self.directory.iterdir() if p.name.isdigit())

    def write(self, state: dict[str, Any], samples: int, *, wait: bool = False) -> None:
        """Copy `state` and write it in the background. Raises StorageError when the one before could not be written."""
        self.finish()
        target = self.directory / f"{samples}{_WRITING}"

        def prepare() -> None:
            self.directory.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(target, ignore_errors=True)

        self._ranks.lead(prepare)
        alone = self._ranks.size == 1
        future = dcp.async_save(state, checkpoint_id=target, process_group=self._group, no_dist=alone)
        assert isinstance(future, Future)
        self._pending = future, samples
        if wait:
            self.finish()

    def poll(self) -> None:
        """Give the checkpoint its name if it is whole by now. With several ranks that waits for `finish`."""
        if self._pending is not None and self._ranks.size == 1 and self._pending[0].done():
            self.finish()

    def finish(self) -> None:
        """Wait for the checkpoint that is being written. Raises StorageError when it could not be."""
        if self._pending is None:
            return
        (future, samples), self._pending = self._pending, None
        target = self.directory / str(samples)

        def wait() -> None:
            try:
                future.result()
            except (Exception, CheckpointException) as error:  # which is no Exception
                why = _first_os_error(error)
                raise StorageError(
                    f"the checkpoint cannot be written: {why}",
                    target,
                    "make room; the same command goes on from the one before",
                ) from error

        def publish() -> None:
            shutil.rmtree(target, ignore_errors=True)
            target.with_name(target.name + _WRITING).rename(target)
            for old in self._whole()[: -self._keep]:
                shutil.rmtree(self.directory / str(old))

        try:
            self._ranks.together(wait)
        except StorageError:
            shutil.rmtree(target.with_name(target.name + _WRITING), ignore_errors=True)
            raise
        self._ranks.lead(publish)

    def read(self, state: dict[str, Any], samples: int) -> None:
        """Fill `state` in place from the checkpoint after `samples` samples. Raises StorageError when it is damaged."""
        checkpoint = self.directory / str(samples)
        try:
            dcp.load(state, checkpoint_id=checkpoint, no_dist=self._ranks.size == 1)
        except (Exception, CheckpointException) as error:
            raise StorageError(
                f"the checkpoint cannot be read: {_first_os_error(error)}",
                checkpoint,
                "remove it to go on from the one before",
            ) from error


def _first_os_error(error: BaseException) -> str:
    """Return what lies under the layers of torch.distributed.checkpoint."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError):
            return inner.strerror or str(inner)
        failures = getattr(inner, "failures", None)
        if failures:
            first = next(iter(failures.values()))
            inner = first[0] if isinstance(first, tuple) else first
            continue
        inner = inner.__cause__ or inner.__context__
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
