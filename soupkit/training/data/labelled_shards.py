"""Shards of WebDataset whose samples have labels (`cls`) in place of captions, and what these are called."""

from itertools import chain, islice
from pathlib import Path

from soupkit.errors import DataError
from soupkit.evaluation.class_names import (
    CLASSNAMES,
    TEMPLATES,
    ClassNames,
    class_names_in,
    default_templates,
    names_of_imagenet,
    read_templates,
    said_of_names,
)
from soupkit.evaluation.kinds import KINDS
from soupkit.evaluation.task import Task
from soupkit.evaluation.webdataset import WebDatasetShards
from soupkit.training.data.braces import MOST, expand_braces
from soupkit.training.entry import DataEntry

IMAGENET = "imagenet-1k"  # in the place of a file of class names


def is_shards(entry: DataEntry) -> bool:
    """Whether a source is a list of tar files, and no task."""
    text = entry.shards
    return isinstance(text, list) or (text is not None and (".tar" in text or text.endswith("}")))


def shard_paths(entry: DataEntry) -> list[str]:
    """Return the paths that the patterns of `shards` stand for. Raises DataError for braces that cannot be expanded."""
    patterns = entry.shards if isinstance(entry.shards, list) else [entry.shards or ""]
    try:
        paths = list(islice(chain.from_iterable(map(expand_braces, patterns)), MOST + 1))
        if len(paths) > MOST:
            raise ValueError(f"the patterns stand for more than {MOST:,} names")
        return paths
    except ValueError as error:
        where = f"{entry.shards!s:.300}"
        raise DataError(f"its braces cannot be expanded: {error}", where, "as in {0000..0999}.tar") from error


def open_labelled_shards(entry: DataEntry) -> Task:
    """Open tar files as a task of classification: `cls` is the number of a class, from 0 on.

    The classes are called as `class_names` says, or a `classnames.txt` beside the shards or one folder above; templates
    lie beside the names. Raises DataError for shards that are missing, and for labels that nothing names.
    """
    shards = [Path(path) for path in shard_paths(entry)]
    place = entry.shards if isinstance(entry.shards, str) else f"{shards[0]} and {len(shards) - 1} more"
    for shard in shards:
        if not shard.is_file():
            raise DataError("is missing, or no file", shard, "correct the pattern, or get the shard")
    names, beside = _class_names(entry, shards[0].parent, place)
    templates = (beside or shards[0].parent) / TEMPLATES
    notes = [*names.notes, *said_of_names(names.names)]
    return Task(
        str(place), "train", "classification", KINDS["classification"].metric,
        WebDatasetShards(place, shards, KINDS["classification"]), names.names,
        read_templates(templates.parent) if templates.exists() else default_templates(names),
        tuple(f"{place}: {note}" for note in notes),
    )  # fmt: skip


def _class_names(entry: DataEntry, folder: Path, place: object) -> tuple[ClassNames, Path | None]:
    """Return the names of the classes, and the folder that they were found in."""
    if entry.class_names == IMAGENET:
        return names_of_imagenet(), None
    if entry.class_names is not None:
        path = Path(entry.class_names)
        if names := class_names_in(path):
            return ClassNames(names), path.parent
        raise DataError("is missing", path, f"a file of class names has one a line; {IMAGENET} stands for ImageNet's")
    for directory in (folder, folder.parent):
        if names := class_names_in(directory / CLASSNAMES):
            return ClassNames(names), directory
    raise DataError(
        "are shards, and nothing names the classes of their labels",
        f"{place!s:.300}",
        f"put {CLASSNAMES} beside them, one class a line in the order of the labels, or name such a file with "
        f"class_names (ImageNet's: class_names: {IMAGENET})",
    )
