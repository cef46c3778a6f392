"""From a folder or a table to a task: what its layout is, what its classes are called, and by what it is scored."""

from collections.abc import Sequence
from pathlib import Path

from soupkit.errors import DataError, UsageError
from soupkit.evaluation.class_names import (
    CLASSNAMES,
    TEMPLATES,
    ClassNames,
    default_templates,
    lines_of,
    names_of_folders,
    read_class_names,
    read_templates,
    said_of_names,
)
from soupkit.evaluation.image_files import ImageFiles, image_table
from soupkit.evaluation.image_folder import by_class_names, image_folder
from soupkit.evaluation.kinds import KINDS, Kind, kind_of
from soupkit.evaluation.known_tasks import Known
from soupkit.evaluation.metrics import METRICS
from soupkit.evaluation.tables import TABLES, table_files
from soupkit.evaluation.task import MAIN_METRIC, Dataset, Task
from soupkit.evaluation.webdataset import WebDatasetShards, shards_of_folder

_TYPE = "dataset_type.txt"
# What folders of splits are called. One of the first three is a split whatever lies beside it: "train" as a class of
# vehicles needs its folders in a folder `test`.
_SPLITS = ("train", "val", "validation", "training", "valid", "dev", "test", "testing")


def open_path(name: str, path: Path, split: str, *, named: bool) -> Task:
    """Open a folder or table of one's own; `named` says whether the split was asked for. Raises DataError."""
    if not path.is_dir():
        if path.suffix.lower() not in (".csv", ".tsv"):
            raise DataError("is no dataset", path, "a task is a folder, or a CSV of path and label")
        return _open_files(name, split, path.parent, image_table(path, split, read_class_names(path.parent)))
    if (path / split / "nshards.txt").is_file() or any((path / split).glob("*.tar")) or (path / _TYPE).exists():
        return open_layout(name, path, split, None)
    table = path / f"{split}.csv"
    if table.is_file():
        return _open_files(name, split, path, image_table(table, split, read_class_names(path)))
    if (path / split).is_dir():
        return _open_files(name, split, path, image_folder(path / split))
    folders = {p.name.casefold() for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")}
    if named or folders & set(_SPLITS[:3]) or (folders and folders <= set(_SPLITS)):
        splits = ", ".join(sorted(p.name for p in path.iterdir() if p.is_dir() or p.suffix == ".csv")[:8])
        hint = f"it has {splits or 'nothing'}; a split is named as in DIR:SPLIT"
        raise DataError(f"has no split {split!r}", path, hint)
    return _open_files(name, split, path, image_folder(path))


def open_layout(name: str, directory: Path, split: str, known: Known | None) -> Task:
    """Open a folder in CLIP_benchmark's layout, or one with tables. `known` is what the literature says of it.

    Raises DataError.
    """
    stated = lines_of(directory / _TYPE)
    kind = kind_of(stated[0], directory / _TYPE) if stated else KINDS[known.kind if known else "classification"]
    published = known is not None and known.kind == kind.name
    metric = _main_metric(directory, kind.name) or (known.metric if known and published else kind.metric)
    also = known.also if known and published else ()
    dataset = _dataset(directory, split, kind, groups=any("groups" in METRICS[m].needs for m in (metric, *also)))
    if not kind.has_classes:
        return Task(name, split, kind.name, metric, dataset, notes=_noted(name, dataset, ()), also=also)
    classnames = read_class_names(directory)
    if not classnames:
        raise DataError("is missing", directory / CLASSNAMES, "write the names of the classes there, one a line")
    noted = _noted(name, dataset, said_of_names(classnames))
    return Task(name, split, kind.name, metric, dataset, classnames, read_templates(directory), noted, also)


def _noted(name: str, dataset: Dataset, notes: Sequence[str]) -> tuple[str, ...]:
    """Return `notes`, after those of a dataset that has some, each with the task's name before it."""
    own = dataset.notes if isinstance(dataset, ImageFiles | WebDatasetShards) else ()
    return tuple(f"{name}: {note}" for note in (*own, *notes))


def _dataset(directory: Path, split: str, kind: Kind, *, groups: bool) -> Dataset:
    """Return the images of a split: of its tables where there are such, else of its shards."""
    if kind.name in TABLES and (tables := table_files(directory, split)):
        return TABLES[kind.name](tables)
    if not (directory / split).is_dir():
        splits = ", ".join(sorted(p.name for p in directory.iterdir() if p.is_dir()))
        raise DataError(f"has no split {split!r}", directory, f"it has {splits or 'no folder'}")
    return shards_of_folder(directory, split, kind, groups=groups)


def _main_metric(directory: Path, kind: str) -> str | None:
    """Return the metric that `main_metric.txt` in `directory` names; None without that file. Raises DataError."""
    path = directory / MAIN_METRIC
    if not (lines := lines_of(path)):
        return None
    try:
        metric = METRICS.find(lines[0])
    except UsageError as error:
        raise DataError(error.what, path, error.hint) from error
    fitting = ", ".join(m.name for m in METRICS.values() if m.kind == kind and m.main)
    if not metric.main:
        what = f"names {metric.name}, which a model cannot be chosen by: it is reported beside the main metric"
        raise DataError(what, path, f"one of {fitting}")
    if metric.kind != kind:
        what = f"names {metric.name}, which is a metric of {metric.kind} tasks, and this is a {kind} task"
        raise DataError(what, path, f"one of {fitting}")
    return metric.name


def _open_files(name: str, split: str, directory: Path, dataset: ImageFiles) -> Task:
    """Make a task of plain image files: class names and templates from files beside them, or those of ImageNet."""
    if dataset.captions:
        metric = _main_metric(directory, "retrieval") or KINDS["retrieval"].metric
        return Task(name, split, "retrieval", metric, dataset, notes=_noted(name, dataset, ()))
    metric = _main_metric(directory, "classification") or KINDS["classification"].metric
    if "groups" in METRICS[metric].needs and not dataset.groups:
        raise DataError(f"has no groups, which {metric} asks for", dataset.place, "a table's column `group` has them")
    given = read_class_names(directory)
    if given and dataset.table is None:
        dataset = by_class_names(dataset, given, directory / CLASSNAMES)
    if given and len(given) < len(dataset.names):
        raise DataError(
            f"names {len(given)} classes, and the data have {len(dataset.names)}",
            directory / CLASSNAMES,
            "name every class, one a line, in the order of the labels",
        )
    names = ClassNames(given) if given else names_of_folders(dataset.names, dataset.place)
    notes = [*names.notes, *said_of_names(names.names)]
    if (directory / TEMPLATES).exists():
        templates = read_templates(directory)
    else:
        templates = default_templates(names)
        if len(templates) == 1:
            notes.append(f"no {TEMPLATES} in {directory}, so the one template is {templates[0]!r}")
    noted = _noted(name, dataset, notes)
    return Task(name, split, "classification", metric, dataset, names.names, templates, noted)
