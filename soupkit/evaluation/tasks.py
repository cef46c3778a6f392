"""From the words of `--task` to tasks: a name of the literature, a suite, or a folder of one's own.

NAME[:SPLIT]   CLIP_benchmark's name, its alias in open_clip's results table, or `digits`
DIR[:SPLIT]    CLIP_benchmark's WebDataset layout, an image folder, or a CSV
"""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from soupkit.errors import DataError, UsageError
from soupkit.evaluation.image_files import ImageFiles, image_folder, image_table
from soupkit.evaluation.known_tasks import KNOWN, SUITES, Known, find_known
from soupkit.evaluation.task import Kind, Task
from soupkit.evaluation.webdataset import WebDatasetFolder, read_lines

DIGITS = Path(__file__).parents[1] / "data" / "digits"
DEFAULT_METRICS: dict[Kind, str] = {
    "classification": "acc1",
    "multilabel": "mean_average_precision",
    "retrieval": "mean_recall@1",
}
_TEMPLATES = "zeroshot_classification_templates.txt"
_CLASSNAMES = "classnames.txt"
_WNID = re.compile(r"n\d{8}")


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
            raise UsageError(f"{task.name}:{task.split} is given twice", "--task", "name each task once")
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
        raise UsageError(f"{known.alias} cannot be scored: it is {known.missing}", "--task")
    path = Path(name)
    if known is None and path.exists():
        return _open_path(name, path, split, named=named)
    if known is None and not name.startswith("wds/"):
        names = ["digits", *SUITES, *(k.alias for k in KNOWN), *(k.name for k in KNOWN)]
        near = ", ".join(get_close_matches(name, names, n=3, cutoff=0.5))
        raise UsageError(
            f"there is no task {name!r}, and nothing lies at that path", "--task", f"nearest: {near}" if near else ""
        )
    return _open_layout(known.name if known else name, _find(known.name if known else name, data_root), split, known)


def _find(name: str, data_root: Path | None) -> Path:
    """Return the folder of a named task, in any of the ways in which people lay them out below `data_root`."""
    if data_root is None:
        raise UsageError(f"where the data of {name} lie is not known", "--task", "add --data-root DIR")
    bare = name.removeprefix("wds/")
    flat = bare.replace("/", "-")
    places = [data_root / p for p in (f"wds_{flat}", f"wds/{bare}", f"wds_{bare}", bare, flat)]
    for place in places:
        if place.is_dir():
            return place
    looked = ", ".join(str(p) for p in dict.fromkeys(places))
    raise DataError(f"the data of {name} are missing", data_root, f"looked for {looked}")


def _open_path(name: str, path: Path, split: str, *, named: bool) -> Task:
    if path.is_file():
        if path.suffix.lower() not in (".csv", ".tsv"):
            raise DataError("is no dataset", path, "a task is a folder, or a CSV of path and label")
        return _open_files(name, split, path.parent, image_table(path, split, _lines(path.parent / _CLASSNAMES)))
    if (path / split / "nshards.txt").is_file() or any((path / split).glob("*.tar")):
        return _open_layout(name, path, split, None)
    table = path / f"{split}.csv"
    if table.is_file():
        return _open_files(name, split, path, image_table(table, split, _lines(path / _CLASSNAMES)))
    if (path / split).is_dir():
        return _open_files(name, split, path, image_folder(path / split))
    if named or any((path / s).is_dir() for s in ("train", "val", "validation")):
        there = ", ".join(sorted(p.name for p in path.iterdir() if p.is_dir() or p.suffix == ".csv")[:8]) or "nothing"
        raise DataError(f"has no split {split!r}", path, f"there is {there}")
    return _open_files(name, split, path, image_folder(path))


def _open_layout(name: str, directory: Path, split: str, known: Known | None) -> Task:
    """Open a folder in CLIP_benchmark's layout."""
    if not (directory / split).is_dir():
        there = ", ".join(sorted(p.name for p in directory.iterdir() if p.is_dir())) or "no folder"
        raise DataError(f"has no split {split!r}", directory, f"there is {there}")
    kind: Kind = known.kind if known else "classification"
    stated = _lines(directory / "dataset_type.txt")
    if stated:
        if stated[0] not in ("classification", "multilabel", "retrieval"):
            raise DataError(f"{stated[0]!r} is no type of dataset that soupkit knows", directory / "dataset_type.txt")
        kind = stated[0]  # type: ignore[assignment]
    metric = known.metric if known and kind == known.kind else DEFAULT_METRICS[kind]
    dataset = WebDatasetFolder(directory, split, kind)
    if kind == "retrieval":
        return Task(name, split, kind, metric, dataset)
    classnames = tuple(read_lines(directory / _CLASSNAMES))
    return Task(name, split, kind, metric, dataset, classnames, _templates(directory))


def _open_files(name: str, split: str, directory: Path, dataset: ImageFiles) -> Task:
    """Make a task of plain image files: class names and templates from files beside them, or those of ImageNet."""
    if dataset.captions:
        return Task(name, split, "retrieval", DEFAULT_METRICS["retrieval"], dataset)
    notes: list[str] = []
    classnames = _lines(directory / _CLASSNAMES)
    from_imagenet = False
    if not classnames:
        imagenet = _imagenet_names(dataset.names)
        from_imagenet = imagenet is not None
        classnames = imagenet or tuple(n.replace("_", " ") for n in dataset.names)
        if imagenet is not None:
            notes.append(f"{name}: class names are open_clip's for ImageNet, {len(imagenet)} of 1000 classes")
    elif len(classnames) < len(dataset.names):
        raise DataError(f"names {len(classnames)} classes, the data have {len(dataset.names)}", directory / _CLASSNAMES)
    if (directory / _TEMPLATES).is_file():
        templates = _templates(directory)
    elif from_imagenet:
        templates = _imagenet_templates()
    else:
        templates = ("a photo of a {c}.",)
        notes.append(f"{name}: no {_TEMPLATES} in {directory}, so the one template is {templates[0]!r}")
    return Task(name, split, "classification", "acc1", dataset, classnames, templates, tuple(notes))


def _lines(path: Path) -> tuple[str, ...]:
    return tuple(read_lines(path)) if path.is_file() else ()


def _templates(directory: Path) -> tuple[str, ...]:
    path = directory / _TEMPLATES
    templates = tuple(read_lines(path))
    for i, template in enumerate(templates, 1):
        if "{c}" not in template:
            raise DataError(
                f"template {template!r} has no place for the class name", f"{path}, line {i}", "write {c} there"
            )
    return templates


def _imagenet_names(folders: Sequence[str]) -> tuple[str, ...] | None:
    """Return open_clip's ImageNet names for folders called by WordNet ids, or by the numbers 0 to 999; else None.

    A folder with a part of the classes (ImageNet-A, ImageNet-R) is a task over that part.
    """
    numbered = len(folders) == 1000 and all(f.isdigit() for f in folders)
    if not numbered and not all(_WNID.fullmatch(f) for f in folders):
        return None
    from open_clip import IMAGENET_CLASSNAMES
    from timm.data import ImageNetInfo

    if numbered:
        return tuple(IMAGENET_CLASSNAMES)
    numbers = {wnid: i for i, wnid in enumerate(ImageNetInfo("imagenet-1k").label_names())}
    if any(f not in numbers for f in folders):
        return None
    return tuple(IMAGENET_CLASSNAMES[numbers[f]] for f in folders)


def _imagenet_templates() -> tuple[str, ...]:
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return tuple(template("{c}") for template in OPENAI_IMAGENET_TEMPLATES)
