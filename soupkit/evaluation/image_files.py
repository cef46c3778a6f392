"""Datasets of plain image files: a folder of folders (`class/name.jpg`), or a CSV of paths and labels or captions."""

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from soupkit.errors import DataError
from soupkit.evaluation.task import Sample, evenly
from soupkit.evaluation.text_files import unreadable

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm")
# What columns are called, without regard to case; open_clip_train's own defaults are filepath and title.
_COLUMNS = {
    "path": ("path", "filepath", "image", "file", "filename"),
    "label": ("label", "class"),
    "caption": ("caption", "title", "text"),
    "split": ("split",),
    "group": ("group",),
}
_DELIMITERS = ("\t", ",", ";")
_DIGITS = re.compile(r"[0-9]{1,15}")
_WHOLE = re.compile(r"([0-9]{1,15})(?:\.0*)?")  # pandas writes whole numbers as 0.0 where some are missing
_NUMBER = re.compile(r"[+-]?[0-9]*\.?[0-9]*")


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """Image files with what belongs to each. `names` are the classes as the source calls them, in label order; `groups`
    the groups that images are counted in, where a table says so."""

    place: str
    root: Path
    paths: tuple[str, ...]
    labels: tuple[int, ...]
    captions: tuple[tuple[str, ...], ...]
    names: tuple[str, ...]
    table: Path | None = None
    groups: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    def files(self) -> list[str]:
        """Return the images, after the table that names them if there is one."""
        return [*([str(self.table)] if self.table else []), *(str(self.root / p) for p in self.paths)]

    def beside_files(self) -> str:
        """Return the labels: they come from the folders' names, or from the names of classes in another file."""
        return json.dumps(self.labels)

    def __len__(self) -> int:
        return len(self.paths)

    def some(self, limit: int) -> list[int]:
        """Return the numbers of `limit` samples, evenly spread."""
        return evenly(len(self), limit)

    def read(self, index: int) -> Sample:
        """Return sample `index`. Raises DataError for a file that cannot be read."""
        path = self.root / self.paths[index]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise unreadable(error, path, "get the image again") from error
        if self.captions:
            return Sample(self.paths[index], data, captions=self.captions[index])
        group = self.groups[index] if self.groups else -1
        return Sample(self.paths[index], data, label=self.labels[index], group=group)


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
    paths, labels, empty = [], [], []
    for label, folder in enumerate(folders):
        images = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_ENDINGS and p.is_file())
        if not images:
            empty.append(folder.name)
        paths += [str(p.relative_to(directory)) for p in images]
        labels += [label] * len(images)
    if not paths:
        raise DataError("holds no images in its class folders", directory, f"soupkit reads {', '.join(IMAGE_ENDINGS)}")
    notes = [f"no image is of the class {name!r}, which a model may still choose" for name in empty[:5]]
    names = tuple(folder.name for folder in folders)
    return ImageFiles(str(directory), directory, tuple(paths), tuple(labels), (), names, notes=tuple(notes))


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    path: str
    value: str
    group: str | None


def image_table(path: Path, split: str, classnames: tuple[str, ...]) -> ImageFiles:
    """Read a CSV or TSV with a header: a path (`filepath`, `image`, `file`) and a `label`, or a `caption` (`title`).

    Paths are relative to the file. A label is a class number, or a class name: one of `classnames`, or where there are
    none the distinct names in alphabetical order. Rows of one path are one image with several captions. Where there is
    a column `split`, only its rows count; `group` says which group an image is counted in. Raises DataError, with the
    line, for anything else.
    """
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise unreadable(error, path, "get the table, or mend its permissions") from error
    except UnicodeDecodeError as error:
        raise DataError(f"cannot be read: {error}", path, "write it in UTF-8") from error
    try:
        captions, rows = _rows(text, path, split)
    except csv.Error as error:
        raise DataError(f"is no table: {error}", path, "fields hold fewer than 131,072 characters") from error
    root, paths = path.parent, tuple(row.path for row in rows)
    if captions:
        texts: dict[str, list[str]] = {}
        for row in rows:
            texts.setdefault(row.path, []).append(row.value)
        return ImageFiles(str(path), root, tuple(texts), (), tuple(map(tuple, texts.values())), (), path)
    labels, names = _labels(rows, path, classnames)
    return ImageFiles(str(path), root, paths, labels, (), names, path, _groups(rows, path))


def _rows(text: str, path: Path, split: str) -> tuple[bool, list[_Row]]:
    """Return whether values are captions, and the rows of `split`."""
    first = text.partition("\n")[0].rstrip("\r")
    for delimiter in _DELIMITERS:
        header = next(csv.reader([first], delimiter=delimiter), [])
        columns = _columns(header)
        if "path" in columns and ("label" in columns or "caption" in columns):
            break
    else:
        raise DataError(
            f"has the columns {first[:200] or 'none'}", path, "it needs path and label, or path and caption"
        )
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    next(reader)
    value = columns.get("label", columns.get("caption", 0))
    rows: list[_Row] = []
    for cells in reader:
        where = f"{path}, line {reader.line_num}"
        if not cells:
            continue
        if len(cells) != len(header):
            raise DataError(
                f"has {len(cells)} cells, and the header {len(header)}", where, "fill the row or take it out"
            )
        if "split" in columns and cells[columns["split"]] != split:
            continue
        if not cells[columns["path"]] or not cells[value].strip():
            raise DataError("lacks a path or a label", where, "fill the cell or take the row out")
        if "\0" in cells[columns["path"]]:
            raise DataError("has a path with a NUL in it", where, "no file can be called so")
        group = cells[columns["group"]].strip() if "group" in columns else None
        rows.append(_Row(reader.line_num, cells[columns["path"]], cells[value].strip(), group))
    if not rows:
        of_split = f" of split {split!r}" if "split" in columns else ""
        raise DataError(f"has no rows{of_split}", path, "a row is the path of an image and its label")
    return "label" not in columns, rows


def _columns(header: Sequence[str]) -> dict[str, int]:
    """Return where each of the columns stands that soupkit reads."""
    lowered = [name.strip().lower() for name in header]
    pairs: Iterator[tuple[str, int]] = (
        (column, lowered.index(name))
        for column, names in _COLUMNS.items()
        for name in reversed(names)
        if name in lowered
    )
    return dict(pairs)


def _labels(rows: Sequence[_Row], path: Path, classnames: tuple[str, ...]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the images' labels and the classes' names, which are numbers where the table has no others."""
    values = [row.value for row in rows]
    numbers = [match and int(match[1]) for match in map(_WHOLE.fullmatch, values)]
    if all(number is not None for number in numbers):
        whole = tuple(number for number in numbers if number is not None)
        return whole, classnames or tuple(map(str, sorted(set(whole))))
    if all(_NUMBER.fullmatch(value) for value in values):
        odd = next(row for row, number in zip(rows, numbers, strict=True) if number is None)
        raise DataError(f"has the label {odd.value!r}", f"{path}, line {odd.line}", "a class number is 0, 1, 2, ...")
    names = classnames or tuple(sorted(set(values)))
    label_of = {name: i for i, name in enumerate(names)}
    for row in rows:
        if row.value not in label_of:
            what = f"has the label {row.value!r}, which is none of the {len(names)} classes"
            raise DataError(what, f"{path}, line {row.line}", "classnames.txt names them, one a line")
    return tuple(label_of[value] for value in values), names


def _groups(rows: Sequence[_Row], path: Path) -> tuple[int, ...]:
    """Return the number of each row's group among the distinct ones in alphabetical order; none without a column."""
    named = [row.group for row in rows if row.group is not None]
    if not named:
        return ()
    for row in rows:
        if not row.group:
            raise DataError("lacks a group", f"{path}, line {row.line}", "fill the cell or take the column out")
    number = {name: i for i, name in enumerate(sorted(set(named)))}
    return tuple(number[name] for name in named)
