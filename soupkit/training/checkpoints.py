"""Checkpoints of a run while it goes on, written by torch.distributed.checkpoint in the background.

OUT.partial/checkpoints/N            after N samples; the newest few are kept
OUT.partial/checkpoints/N.partial    being written
OUT.partial/checkpoints/N.old        being removed
"""

import inspect
import shutil
import warnings
from concurrent.futures import Future
from io import BytesIO
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import ReadItem

from soupkit.checkpoint.formats.dcp import read_metadata
from soupkit.errors import CheckpointError, StorageError
from soupkit.ranks import Ranks

# torch says so at every checkpoint of a run in one process, where it is meant.
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")

CHECKPOINTS_NAME = "checkpoints"
_WRITING = ".partial"
_REMOVING = ".old"
# One process is told not to ask others; older torch (2.6) finds out by itself, and takes no such word.
_ALONE: dict[str, Any] = {"no_dist": True} if "no_dist" in inspect.signature(dcp.load).parameters else {}


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

        self._ranks.lead(self._make_room)
        alone = _ALONE if self._ranks.size == 1 else {}
        future = dcp.async_save(state, checkpoint_id=target, process_group=self._group, **alone)
        assert isinstance(future, Future)
        self._pending = future, samples
        if wait:
            self.finish()

    def _make_room(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.sweep()

    def sweep(self) -> None:
        """Remove what a killed run was about to write or to remove."""
        for path in self.directory.iterdir() if self.directory.is_dir() else ():
            if path.suffix in (_WRITING, _REMOVING):
                shutil.rmtree(path, ignore_errors=True)

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

        try:
            self._ranks.together(_wait_for, future, target)
        except StorageError:
            shutil.rmtree(target.with_name(target.name + _WRITING), ignore_errors=True)
            raise
        self._ranks.lead(self._publish, target)

    def _publish(self, target: Path) -> None:
        """Give the checkpoint that is whole its name, and remove those that are too many."""
        _remove(target)
        target.with_name(target.name + _WRITING).rename(target)
        for samples in self._whole()[: -self._keep]:
            _remove(self.directory / str(samples))

    def read(self, state: dict[str, Any], samples: int) -> None:
        """Fill the tensors of `state` in place from the checkpoint after `samples` samples; no code of it runs. Raises
        StorageError when it is damaged."""
        checkpoint = self.directory / str(samples)
        hint = "remove it to go on from the one before"
        try:
            metadata = self._ranks.together(read_metadata, checkpoint)
            reader = _Reader(checkpoint, metadata)
            alone = _ALONE if self._ranks.size == 1 else {}
            dcp.load(state, storage_reader=reader, planner=_TensorsAlone(), **alone)
        except CheckpointError as error:
            raise StorageError(f"the checkpoint cannot be read: {error.what}", error.where, hint) from error
        except (Exception, CheckpointException) as error:
            raise StorageError(f"the checkpoint cannot be read: {_first_os_error(error)}", checkpoint, hint) from error


class _Reader(dcp.FileSystemReader):
    """Reads tensors as `metadata`, which have been checked, say; torch's own unpickles them."""

    def __init__(self, path: Path, metadata: Metadata) -> None:
        super().__init__(path)
        self._metadata = metadata

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        return self._metadata


class _TensorsAlone(DefaultLoadPlanner):
    """Loads no objects, which torch's own planner unpickles."""

    def load_bytes(self, read_item: ReadItem, value: BytesIO) -> None:
        raise ValueError(f"{read_item.dest_index.fqn} is no tensor")


def _wait_for(future: Future[Any], target: Path) -> None:
    try:
        future.result()
    except (Exception, CheckpointException) as error:  # which is no Exception
        why = _first_os_error(error)
        hint = "make room; the same command goes on from the one before"
        raise StorageError(f"the checkpoint cannot be written: {why}", target, hint) from error


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint, which is none from the first moment on."""
    old = checkpoint.with_name(checkpoint.name + _REMOVING)
    if checkpoint.is_dir():
        shutil.rmtree(old, ignore_errors=True)
        checkpoint.rename(old)
    shutil.rmtree(old, ignore_errors=True)


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
