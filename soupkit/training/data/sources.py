"""Where training images and captions come from: tar shards of WebDataset, a CSV, or a classification task.

WebDataset's own library streams; here any sample can be read by its number, so that the order of the data depends on
the seed and the count of samples alone and a run may go on with another number of ranks.
"""

import csv
import hashlib
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache as once
from pathlib import Path
from typing import TextIO

import numpy as np

from soupkit.errors import DataError
from soupkit.evaluation.prompts import fill_templates
from soupkit.evaluation.task import Task
from soupkit.evaluation.tasks import open_tasks, split_name
from soupkit.files import check_regular
from soupkit.progress import SILENT, Progress
from soupkit.ranks import Ranks
from soupkit.training.data.labelled_shards import is_shards, open_labelled_shards, shard_paths
from soupkit.training.data.shards import IMAGE_BYTES, Keys, ShardReader, Table, open_table
from soupkit.training.entry import DataEntry, TrainEntry
from soupkit.training.signals import Stop

_MOST_LINE = 1 << 20  # characters of a table's line; a field of csv has 131,072


@dataclass(frozen=True, slots=True)
class SourceFiles:
    """Which files a source is made of: their number, their bytes, and a digest of their names and sizes."""

    files: int
    bytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class Source:
    """Images with captions or labels. `sizes` int64 are the samples of each shard, in order.

    `read(i)` returns the image file's bytes and its captions, and raises OSError or DataError for a sample that is
    damaged. Of a task of classification, `task`, `labels()` are the classes [N], and `read_label(i)` returns an image
    with its class instead; all are None elsewhere. `notes` say what could not be read.
    """

    place: str
    sizes: np.ndarray
    read: Callable[[int], tuple[bytes, tuple[str, ...]]]
    files: SourceFiles
    labels: Callable[[], np.ndarray] | None = None
    task: Task | None = None
    read_label: Callable[[int], tuple[bytes, int]] | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return int(self.sizes.sum())


def open_sources(
    entry: TrainEntry, cache: Path | None = None, *, ranks: Ranks | None = None, workers: int = 0,
    stop: Stop | None = None, progress: Progress = SILENT,
) -> list[Source]:  # fmt: skip
    """Open the data of a run; every rank must call it. Raises DataError when nothing in one of them can be read.

    The index of shards is kept in `cache`, and made by `workers` processes per rank. Asked to stop meanwhile, it raises
    KeyboardInterrupt.
    """
    ranks = ranks or Ranks()
    sources = []
    for one in entry.data:
        source = ranks.together(_open, one, labelled=entry.classifies)
        if source is None:
            keys = Keys(tuple(one.image_key.split(";")), tuple(one.caption_key.split(";")))
            table = open_table(
                shard_paths(one), keys, cache, ranks=ranks, workers=workers, stop=stop, progress=progress
            )
            source = _from_shards(one, table, keys, cache)
        sources.append(source)
    return sources


def _open(entry: DataEntry, *, labelled: bool) -> Source | None:
    """Open what is no list of shards with captions."""
    if labelled or entry.class_names is not None:
        return _from_task(open_labelled(entry))
    if entry.csv is not None:
        return _table(entry)
    if isinstance(entry.shards, str) and not is_shards(entry):
        return _from_task(_task(entry.shards))
    if entry.balanced:
        raise DataError("balanced needs classes", entry.shards, "it is for tasks, and for shards with class_names")
    return None


def _files(sizes: Iterable[tuple[str, int]]) -> SourceFiles:
    """Return what names and sizes say of files; a size of -1 is that of a file that is missing."""
    digest, number, total = hashlib.blake2b(digest_size=16), 0, 0
    for name, size in sizes:
        digest.update(f"{name}:{size}\n".encode())
        number, total = number + 1, total + max(0, size)
    return SourceFiles(number, total, digest.hexdigest())


def open_labelled(entry: DataEntry) -> Task:
    """Open a source as a task of classification: images with labels, and the names of their classes.

    Raises DataError for a source without either.
    """
    if is_shards(entry):
        return open_labelled_shards(entry)
    hint = "name digits:train, a folder DIR:train, shards with cls, or csv: a table of filepath and label"
    text = str(entry.shards if entry.csv is None else entry.csv)
    if entry.class_names is not None:
        raise DataError("is a task, whose classes have names", text, "class_names belongs to tar files: leave it out")
    place = split_name(text)[0]
    if place != "digits" and not Path(place).exists():
        raise DataError("is no task, and nothing lies at that path", text, hint)
    (task,) = open_tasks([text], split="train")
    if task.kind != "classification":
        raise DataError(f"is a task of {task.kind}, and cross_entropy needs one label for each image", text, hint)
    return task


def _task(text: str) -> Task:
    if split_name(text)[0] != "digits" and not Path(split_name(text)[0]).is_dir():
        raise DataError("names no shards, no folder and no task", text, "name .tar files, a folder or digits:train")
    (task,) = open_tasks([text], split="train")
    if task.kind == "multilabel":
        raise DataError("its images have several labels and no caption", text, "use shards with captions")
    return task


def _from_task(task: Task) -> Source:
    dataset = task.dataset
    files = _files((Path(f).name, Path(f).stat().st_size) for f in dataset.files())
    sizes = np.array([len(dataset)])
    if task.kind == "retrieval":

        def read_captions(index: int) -> tuple[bytes, tuple[str, ...]]:
            sample = dataset.read(index)
            return sample.data, sample.captions

        return Source(dataset.place, sizes, read_captions, files)
    texts = list(fill_templates(task.classnames, task.templates, dataset.place))
    n = len(task.templates)

    def read(index: int) -> tuple[bytes, tuple[str, ...]]:
        sample = dataset.read(index)
        return sample.data, tuple(texts[sample.label * n : (sample.label + 1) * n])

    def read_label(index: int) -> tuple[bytes, int]:
        sample = dataset.read(index)
        return sample.data, sample.label

    @once  # only asked for where an order depends on them: to know them, everything is read
    def labels() -> np.ndarray:
        return np.array([dataset.read(i).label for i in range(len(dataset))])

    return Source(dataset.place, sizes, read, files, labels, task, read_label)


def _lines(file: TextIO) -> Iterator[str]:
    """Yield the lines of a table. Raises ValueError for one that fills the memory."""
    while line := file.readline(_MOST_LINE):
        if len(line) == _MOST_LINE:
            raise ValueError(f"a line has more than {_MOST_LINE:,} characters")
        yield line


def _table(entry: DataEntry) -> Source:
    path = entry.csv
    assert path is not None
    try:
        check_regular(path)
        with path.open(newline="", encoding="utf-8-sig") as file:
            tabs = "\t" in file.readline(_MOST_LINE)  # open_clip's own tables have them, whatever they are called
            file.seek(0)
            table = csv.DictReader(_lines(file), delimiter="\t" if tabs else ",")
            columns = list(table.fieldnames or ())
            complete = entry.csv_image in columns and entry.csv_caption in columns
            rows = [(row[entry.csv_image] or "", row[entry.csv_caption] or "") for row in table] if complete else []
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(
            f"cannot be read: {error}", path, "check the path; a table is UTF-8 text with a header"
        ) from error
    if not rows:
        lacking = f"lacks the columns {entry.csv_image!r} and {entry.csv_caption!r}"
        hint = f"it has {', '.join(columns) or 'none'}; name them with csv_image and csv_caption"
        raise DataError("holds no rows" if complete else lacking, path, hint)

    def read(index: int) -> tuple[bytes, tuple[str, ...]]:
        image, caption = rows[index]
        return _image_file(path.parent / image), (caption,)

    return Source(str(path), np.array([len(rows)]), read, _files([(path.name, path.stat().st_size)]))


def _image_file(path: Path) -> bytes:
    """Return what is in an image file. Raises OSError or DataError for what is none: a pipe would never end."""
    try:
        status = path.stat()
    except ValueError as error:  # a NUL in the path
        raise DataError(f"cannot be read: {error}", ascii(str(path))[:300], "correct the table") from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError("is no file", path, "correct the table")
    if status.st_size > IMAGE_BYTES:
        raise DataError(f"has {status.st_size:,} bytes", path, f"an image has at most {IMAGE_BYTES >> 20} MiB")
    return path.read_bytes()


def _from_shards(entry: DataEntry, table: Table, keys: Keys, cache: Path | None) -> Source:
    notes = tuple(
        f"{table.paths[i]}: {p}; {table.counts[i]} of its samples can be read" for i, p in table.problems.items()
    )
    first = entry.shards if isinstance(entry.shards, str) else (entry.shards or [""])[0]
    if not table.counts.sum():
        hint = notes[0] if notes else f"looked for .{entry.image_key} with .{entry.caption_key}"
        raise DataError("holds no image with a caption", first, hint)
    files = _files((Path(p).name, int(size)) for p, size in zip(table.paths, table.stamps[:, 0], strict=True))
    # The shards of one group of the order, and of the next, whose first samples may be wanted before.
    read = ShardReader(table, keys, cache, together=2 * entry.shuffle_shards)
    return Source(first, table.counts, read, files, notes=notes)
