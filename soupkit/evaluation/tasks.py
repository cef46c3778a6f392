"""From the words of `--task` to tasks: a name of the literature, a suite, or a folder of one's own.

NAME[:SPLIT]   CLIP_benchmark's name, its alias in open_clip's results table, or `digits`
DIR[:SPLIT]    CLIP_benchmark's WebDataset layout, an image folder, or a CSV
"""

from collections.abc import Sequence
from difflib import get_close_matches
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
)
from soupkit.evaluation.image_files import ImageFiles, image_folder, image_table
from soupkit.evaluation.kinds import KINDS, kind_of
from soupkit.evaluation.known_tasks import KNOWN, SUITES, Known, find_known
from soupkit.evaluation.metrics import METRICS
from soupkit.evaluation.task import MAIN_METRIC, Task
from soupkit.evaluation.webdataset import WebDatasetFolder

DIGITS = Path(__file__).parents[1] / "data" / "digits"
_TYPE = "dataset_type.txt"


def open_tasks(texts: Sequence[str], *, data_root: Path | None = None, split: str = "test") -> list[Task]:
    """Open every task that `texts` name; a suite is several. `split` counts where a text names none.

    Raises UsageError for names that are unknown or given twice, DataError where data are missing or not in a layout
    that soupkit reads.
    """
    tasks: list[Task] = []
    for text in texts:
        name, named_split = split_name(text)
        members = SUITES.get(name, (name,))
        tasks += [_open(member, named_split or split, data_root, named=bool(named_split)) for member in members]
    seen = set()
    for task in tasks:
        if (task.name, task.split) in seen:
            raise UsageError(f"names {task.name}:{task.split} twice", "--task", "name each task once")
        seen.add((task.name, task.split))
    return tasks


def split_name(text: str) -> tuple[str, str | None]:
    """Return a task's name and the split it asks for, None for none. A path that exists is taken whole."""
    if Path(text).exists():
        return text, None
    name, colon, split = text.rpartition(":")
    return (name, split) if colon and split and "/" not in split else (text, None)


def _open(name: str, split: str, data_root: Path | None, *, named: bool) -> Task:
    if name == "digits":
        return _open_layout("digits", DIGITS, split, None)
    known = find_known(name)
    if known is not None and known.missing:
        raise UsageError(f"cannot be scored: it is {known.missing}", f"--task {known.alias!r}", "leave it out")
    path = Path(name)
    if known is None and path.exists():
        return _open_path(name, path, split, named=named)
    if known is None and not name.startswith("wds/"):
        names = ["digits", *SUITES, *(k.alias for k in KNOWN), *(k.name for k in KNOWN)]
        near = ", ".join(get_close_matches(name, names, n=3, cutoff=0.5))
        hint = f"did you mean {near}?" if near else "a task is a name, such as digits or CIFAR-10, or a folder"
        raise UsageError("is no task, and nothing lies at that path", f"--task {name!r}", hint)
    return _open_layout(known.name if known else name, _find(known.name if known else name, data_root), split, known)


def _find(name: str, data_root: Path | None) -> Path:
    """Return the folder of a named task, in any of the ways in which people lay them out below `data_root`."""
    if data_root is None:
        raise UsageError("needs to know where its data lie", f"--task {name}", "add --data-root DIR")
    bare = name.removeprefix("wds/")
    flat = bare.replace("/", "-")
    candidates = [data_root / p for p in (f"wds_{flat}", f"wds/{bare}", f"wds_{bare}", bare, flat)]
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    looked = ", ".join(str(p) for p in dict.fromkeys(candidates))
    raise DataError(f"holds no data of {name}", data_root, f"soupkit looked for {looked}")


def _open_path(name: str, path: Path, split: str, *, named: bool) -> Task:
    if path.is_file():
        if path.suffix.lower() not in (".csv", ".tsv"):
            raise DataError("is no dataset", path, "a task is a folder, or a CSV of path and label")
        return _open_files(name, split, path.parent, image_table(path, split, read_class_names(path.parent)))
    if (path / split / "nshards.txt").is_file() or any((path / split).glob("*.tar")):
        return _open_layout(name, path, split, None)
    table = path / f"{split}.csv"
    if table.is_file():
        return _open_files(name, split, path, image_table(table, split, read_class_names(path)))
    if (path / split).is_dir():
        return _open_files(name, split, path, image_folder(path / split))
    if named or any((path / s).is_dir() for s in ("train", "val", "validation")):
        splits = ", ".join(sorted(p.name for p in path.iterdir() if p.is_dir() or p.suffix == ".csv")[:8])
        raise DataError(f"has no split {split!r}", path, f"it has {splits or 'nothing'}")
    return _open_files(name, split, path, image_folder(path))


def _open_layout(name: str, directory: Path, split: str, known: Known | None) -> Task:
    """Open a folder in CLIP_benchmark's layout."""
    if not (directory / split).is_dir():
        splits = ", ".join(sorted(p.name for p in directory.iterdir() if p.is_dir()))
        raise DataError(f"has no split {split!r}", directory, f"it has {splits or 'no folder'}")
    stated = lines_of(directory / _TYPE)
    kind = kind_of(stated[0], directory / _TYPE) if stated else KINDS[known.kind if known else "classification"]
    published = known is not None and known.kind == kind.name
    metric = _main_metric(directory, kind.name) or (known.metric if known and published else kind.metric)
    also = known.also if known and published else ()
    groups = any("groups" in METRICS[m].needs for m in (metric, *also))
    dataset = WebDatasetFolder(directory, split, kind, groups=groups)
    if not kind.has_classes:
        return Task(name, split, kind.name, metric, dataset, also=also)
    classnames = read_class_names(directory)
    if not classnames:
        raise DataError("is missing", directory / CLASSNAMES, "write the names of the classes there, one a line")
    return Task(name, split, kind.name, metric, dataset, classnames, read_templates(directory), also=also)


def _main_metric(directory: Path, kind: str) -> str | None:
    """Return the metric that `main_metric.txt` in `directory` names; None without that file. Raises DataError."""
    path = directory / MAIN_METRIC
    if not (lines := lines_of(path)):
        return None
    try:
        metric = METRICS.find(lines[0])
    except UsageError as error:
        raise DataError(error.what, path, error.hint) from error
    if metric.kind != kind:
        fitting = ", ".join(m.name for m in METRICS.values() if m.kind == kind)
        what = f"names {metric.name}, which is a metric of {metric.kind} tasks, and this is a {kind} task"
        raise DataError(what, path, f"one of {fitting}")
    return metric.name


def _open_files(name: str, split: str, directory: Path, dataset: ImageFiles) -> Task:
    """Make a task of plain image files: class names and templates from files beside them, or those of ImageNet."""
    if dataset.captions:
        metric = _main_metric(directory, "retrieval") or KINDS["retrieval"].metric
        return Task(name, split, "retrieval", metric, dataset)
    metric = _main_metric(directory, "classification") or KINDS["classification"].metric
    if "groups" in METRICS[metric].needs and not dataset.groups:
        raise DataError(f"has no groups, which {metric} asks for", dataset.place, "a table's column `group` has them")
    given = read_class_names(directory)
    if given and len(given) < len(dataset.names):
        raise DataError(
            f"names {len(given)} classes, and the data have {len(dataset.names)}",
            directory / CLASSNAMES,
            "name every class, one a line, in the order of the labels",
        )
    names = ClassNames(given) if given else names_of_folders(dataset.names, dataset.place)
    notes = [*dataset.notes, *names.notes]
    if (directory / TEMPLATES).exists():
        templates = read_templates(directory)
    else:
        templates = default_templates(names)
        if len(templates) == 1:
            notes.append(f"no {TEMPLATES} in {directory}, so the one template is {templates[0]!r}")
    noted = tuple(f"{name}: {note}" for note in notes)
    return Task(name, split, "classification", metric, dataset, names.names, templates, noted)
