"""Where training images and captions come from: tar shards of WebDataset, a CSV, or a classification task.

WebDataset's own library streams; here any sample can be read by its number, so that the order of the data depends on
the seed and the count of samples alone and a run may go on with another number of ranks.
"""

import csv
import os
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from soupkit.errors import DataError
from soupkit.evaluation.data import Task
from soupkit.evaluation.prompts import fill_templates
from soupkit.evaluation.tasks import open_tasks, split_name
from soupkit.training.entry import DataEntry


@dataclass(frozen=True, slots=True)
class Source:
    """Images with captions. `sizes` are the samples of each shard, in order.

    `read(i)` returns the image file's bytes and its captions, and raises OSError or DataError for a sample that is
    damaged. `labels` [N] are the classes of a task, None elsewhere. `notes` say what could not be read.
    """

    place: str
    sizes: tuple[int, ...]
    read: Callable[[int], tuple[bytes, tuple[str, ...]]]
    identity: tuple[tuple[str, int], ...]
    labels: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return sum(self.sizes)


def open_source(entry: DataEntry) -> Source:
    """Open what a data entry names. Raises DataError when nothing in it can be read."""
    if entry.csv is not None:
        return _table(entry)
    if isinstance(entry.shards, str) and (task := _task(entry.shards)) is not None:
        return _from_task(task)
    if entry.balanced:
        raise DataError("balanced needs classes", entry.shards, "it is for tasks of classification")
    return _from_shards(entry)


def _task(text: str) -> Task | None:
    if text.endswith((".tar", "}")) or ".tar" in text:
        return None
    if split_name(text)[0] != "digits" and not Path(split_name(text)[0]).is_dir():
        raise DataError("there are no shards here", text, "name .tar files, a folder or digits:train")
    (task,) = open_tasks([text], split="train")
    if task.kind == "multilabel":
        raise DataError("its images have several labels and no caption", text, "use shards with captions")
    return task


def _from_task(task: Task) -> Source:
    dataset = task.dataset
    files = tuple((Path(f).name, Path(f).stat().st_size) for f in dataset.files())
    if task.kind == "retrieval":

        def read_captions(index: int) -> tuple[bytes, tuple[str, ...]]:
            sample = dataset.read(index)
            return sample.data, sample.captions

        return Source(dataset.place, (len(dataset),), read_captions, files)
    texts = fill_templates(task.classnames, task.templates, dataset.place)
    n = len(task.templates)

    def read(index: int) -> tuple[bytes, tuple[str, ...]]:
        sample = dataset.read(index)
        return sample.data, tuple(texts[sample.label * n : (sample.label + 1) * n])

    labels = np.array([dataset.read(i).label for i in range(len(dataset))])
    return Source(dataset.place, (len(dataset),), read, files, labels)


def _table(entry: DataEntry) -> Source:
    path = entry.csv
    assert path is not None
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot be read: {error}", path) from error
    if not rows or entry.csv_image not in rows[0] or entry.csv_caption not in rows[0]:
        there = ", ".join(rows[0]) if rows else "no rows"
        raise DataError(
            f"lacks the columns {entry.csv_image!r} and {entry.csv_caption!r}", path,
            f"it has {there}; name them with csv_image and csv_caption",
        )  # fmt: skip

    def read(index: int) -> tuple[bytes, tuple[str, ...]]:
        row = rows[index]
        return (path.parent / row[entry.csv_image]).read_bytes(), (row[entry.csv_caption] or "",)

    return Source(str(path), (len(rows),), read, ((path.name, path.stat().st_size),))


def _from_shards(entry: DataEntry) -> Source:
    """Index the headers of tar shards. A shard that is cut short or is no tar gives what can be read before that."""
    from braceexpand import braceexpand

    patterns = entry.shards if isinstance(entry.shards, list) else [entry.shards or ""]
    paths = [Path(p) for pattern in patterns for p in braceexpand(pattern)]
    image_keys, caption_keys = entry.image_key.split(";"), entry.caption_key.split(";")
    places, sizes, notes, files = [], [], [], []
    for number, path in enumerate(paths):
        found, problem = _index(path, image_keys, caption_keys)
        if problem:
            notes.append(f"{path}: {problem}; {len(found)} of its samples can be read")
        places.append(np.array([(number, *f) for f in found], dtype=np.int64).reshape(-1, 5))
        sizes.append(len(found))
        files.append((path.name, path.stat().st_size if path.exists() else 0))
    table = np.concatenate(places) if places else np.empty((0, 5), dtype=np.int64)
    if not len(table):
        hint = notes[0] if notes else f"looked for .{entry.image_key} with .{entry.caption_key}"
        raise DataError("holds no image with a caption", str(patterns[0]), hint)

    def read(index: int) -> tuple[bytes, tuple[str, ...]]:
        shard, *extents = (int(n) for n in table[index])
        with paths[shard].open("rb") as file:
            image, caption = (_pread(file.fileno(), *extents[i : i + 2]) for i in (0, 2))
        return image, (caption.decode("utf-8", "replace").strip(),)

    return Source(str(patterns[0]), tuple(sizes), read, tuple(files), notes=tuple(notes))


def _index(path: Path, images: Sequence[str], captions: Sequence[str]) -> tuple[list[tuple[int, ...]], str]:
    """Return (image offset, bytes, caption offset, bytes) per sample of a shard, and what is wrong with the shard."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    problem = ""
    try:
        size = path.stat().st_size
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.isfile() and member.offset_data + member.size <= size:
                    folder, _, name = member.name.rpartition("/")
                    stem, _, suffix = name.partition(".")
                    found.setdefault(f"{folder}/{stem}", {})[suffix.lower()] = (member.offset_data, member.size)
                elif member.isfile():
                    problem = "is cut short"
    except (OSError, tarfile.TarError, EOFError) as error:
        problem = f"cannot be read: {error}"
    samples: list[tuple[int, ...]] = []
    for parts in found.values():
        image = next((parts[k] for k in images if k in parts), None)
        caption = next((parts[k] for k in captions if k in parts), None)
        if image is not None and caption is not None:
            samples.append((*image, *caption))
    return samples, problem


def _pread(descriptor: int, offset: int, size: int) -> bytes:
    data = os.pread(descriptor, size, offset)
    if len(data) != size:
        raise OSError(f"the shard ends inside the sample, at byte {offset + len(data)}")
    return data
