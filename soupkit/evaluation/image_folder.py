"""Datasets that are a folder of folders, `class/name.jpg`: which class each folder is."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from soupkit.errors import DataError
from soupkit.evaluation.image_files import IMAGE_ENDINGS, ImageFiles, refuse_two_meanings

_DIGITS = re.compile(r"[0-9]{1,15}")
_IN_CLASSES = f"an image lies in the folder of its class and ends in {', '.join(IMAGE_ENDINGS)}"


def image_folder(directory: Path) -> ImageFiles:
    """List `directory/class/.../name.jpg`. Classes are the directories in the order of their names, as torchvision's
    ImageFolder has them, or of their numbers when all are numbers; one without images is a class that no image is of.

    Raises DataError where there are no classes, or no images at all.
    """
    folders = [p for p in directory.iterdir() if p.is_dir() and not p.name.startswith(".")]
    if not folders:
        raise DataError("holds no class folders", directory, "an image folder is class/name.jpg")
    numbered = all(_DIGITS.fullmatch(p.name) for p in folders)
    folders.sort(key=lambda p: (int(p.name) if numbered else 0, p.name))
    paths, labels, empty, others = [], [], [], _loose(directory)
    for label, folder in enumerate(folders):
        images, left_out = _images_below(folder)
        others += left_out
        if not images:
            empty.append(folder.name)
        paths += [os.path.relpath(path, directory) for path in images]
        labels += [label] * len(images)
    if not paths:
        raise DataError("holds no images in its class folders", directory, f"soupkit reads {', '.join(IMAGE_ENDINGS)}")
    notes = [f"no image is of the class {name!r}, which a model may still choose" for name in empty[:5]]
    if others:
        notes.append(
            f"{len(others)} files are left out, such as {os.path.relpath(others[0], directory)}: {_IN_CLASSES}"
        )
    names = tuple(folder.name for folder in folders)
    return ImageFiles(str(directory), directory, tuple(paths), tuple(labels), (), names, notes=tuple(notes))


def _loose(directory: Path) -> list[str]:
    """Return the images in `directory` that are in no folder of a class."""
    return [str(p) for p in sorted(directory.iterdir()) if p.suffix.lower() in IMAGE_ENDINGS and p.is_file()]


def _images_below(folder: Path) -> tuple[list[str], list[str]]:
    """Return the images below a folder in the order of their paths, and the other files but hidden ones. Links to
    folders are followed, as torchvision does, though not back to a folder that they lie in."""
    images, others = [], []
    above: dict[str, tuple[str, ...]] = {str(folder): (os.path.realpath(folder),)}
    for place, below, names in os.walk(folder, followlinks=True):
        for name in names:
            path = f"{place}/{name}"
            if Path(name).suffix.lower() not in IMAGE_ENDINGS:
                others += [path] if not name.startswith(".") else []
            elif Path(path).is_file():
                images.append(path)
        real = {name: os.path.realpath(f"{place}/{name}") for name in below}
        below[:] = [name for name in below if real[name] not in above[place]]
        above |= {f"{place}/{name}": (*above[place], real[name]) for name in below}
    return sorted(images, key=Path), sorted(others, key=Path)


def by_class_names(images: ImageFiles, given: Sequence[str], where: object) -> ImageFiles:
    """Return `images` of folders with their labels among the classes `given`, which are those of the file `where`.

    A folder is the class that it is called, spaces and underscores being alike, or the number of one. Where no folder
    is called as any class (WordNet ids beside words), and there are as many, the order of both says which is which, and
    that is noted. Raises DataError for all else.
    """
    numbered = all(_DIGITS.fullmatch(name) for name in images.names)
    if numbered:
        found = [_numbered(name, given, where) for name in images.names]
        if sorted(images.names) != sorted(images.names, key=int):
            note = (
                f"the folders of {images.place} are labels by their numbers; torchvision's ImageFolder sorts them as "
                "texts (0, 1, 10, 2): the outputs of a classifier that was trained so need a --label-map"
            )
            images = replace(images, notes=(*images.notes, note))
    else:
        label_of: dict[str, int | None] = {}
        for label, name in enumerate(given):
            label_of[_plain(name)] = None if _plain(name) in label_of else label
        known = [name for name in images.names if _plain(name) in label_of]
        if not known and len(given) == len(images.names):
            pairs = f"{images.names[0]!r} is {given[0]!r}, {images.names[-1]!r} is {given[-1]!r}"
            note = f"no folder is called as a class of {where}: they are taken in their order, so that {pairs}"
            return replace(images, notes=(*images.notes, note))
        found = [_named(name, label_of, given, where) for name in images.names]
    if len(set(found)) < len(found):
        raise DataError("names one class for two folders", where, f"call the folders of {images.place} as it does")
    return replace(images, labels=tuple(found[label] for label in images.labels))


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").split())


def _numbered(name: str, given: Sequence[str], where: object) -> int:
    """Return the number that a folder is called; names that are numbers themselves must not say another class."""
    number = int(name)
    if number >= len(given):
        what = f"names {len(given)} classes, and there is a folder {name!r}"
        raise DataError(what, where, "folders called by numbers are labels, which count from 0")
    refuse_two_meanings(name, number, given, where)
    return number


def _named(name: str, label_of: Mapping[str, int | None], given: Sequence[str], where: object) -> int:
    label = label_of.get(_plain(name))
    if label is None:
        what = "has two classes called" if _plain(name) in label_of else f"names {len(given)} classes, and none of them"
        hint = "call the folders as the classes are called, or by their numbers from 0"
        raise DataError(f"{what} {name!r}, as a folder is", where, hint)
    return label
