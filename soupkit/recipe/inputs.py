"""Stamps of the files that a step reads: when one changes, the step runs again."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from soupkit.checkpoint.hub_ref import is_hub
from soupkit.evaluation.tasks import split_name
from soupkit.training.data.braces import expand_braces
from soupkit.training.entry import DataEntry

Stamp = list[Any]  # of one file or folder: a list of [name, bytes] or [path, bytes, time of change in ns]


class Stamps:
    """Stamps of what does not lie in `root`, the directory of the run: its own steps count by what they are made from,
    so that the directory may be moved. Nothing is read but sizes and times; what is not there has no stamp."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def _foreign(self, paths: Iterable[str | Path | None]) -> Iterator[str]:
        for path in paths:
            if path is not None and str(path) and self._root not in Path(path).parents:
                yield str(path)

    def weights(self, refs: Iterable[str | None]) -> Iterator[Stamp]:
        """Yield stamps of local weights; of RUN@ema that of the run."""
        for ref in self._foreign(refs):
            if not is_hub(ref):
                yield _stamp(Path(ref) if Path(ref).exists() else Path(ref.rpartition("@")[0] or ref))

    def configs(self, named: Iterable[Any]) -> Iterator[Stamp]:
        """Yield stamps of configs that are files: a model may be a name, or its config itself."""
        for path in self._foreign(name for name in named if isinstance(name, str | Path)):
            if path.endswith(".json"):
                yield _stamp(Path(path))

    def files(self, paths: Iterable[Path]) -> Iterator[Stamp]:
        """Yield stamps of files."""
        for path in self._foreign(paths):
            yield _stamp(Path(path))

    def tasks(self, tasks: Iterable[str]) -> Iterator[Stamp]:
        """Yield stamps of tasks that are folders."""
        for task in self._foreign(tasks):
            yield _stamp(Path(split_name(task)[0]))

    def training_data(self, sources: Sequence[DataEntry]) -> Iterator[Stamp]:
        """Yield stamps of shards and tables by size alone: data that was copied to another disk is no reason to train
        for days again."""
        for source in sources:
            patterns = [source.shards] if isinstance(source.shards, str) else source.shards or []
            shards = [Path(shard) for pattern in patterns for shard in _expanded(pattern)]
            files = [path for path in (*shards, source.csv) if path is not None and path.is_file()]
            yield [[path.name, path.stat().st_size] for path in files]


def _expanded(pattern: str) -> Iterator[str]:
    try:
        yield from expand_braces(pattern)
    except ValueError:  # the training itself will say so
        yield pattern


def _stamp(path: Path) -> Stamp:
    files = [path] if path.is_file() else sorted(path.glob("*"))
    return [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in files]
