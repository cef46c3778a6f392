"""Datasets of plain image files, and tables that name them: a CSV of paths and labels or captions."""

import csv
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from soupkit.errors import DataError
from soupkit.evaluation.shard_index import MOST_IMAGE_BYTES
from soupkit.evaluation.task import Sample, evenly
from soupkit.evaluation.text_files import unreadable
from soupkit.files import read_bytes, read_text

_MOST_TABLE_BYTES = 1 << 28
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
# What columns are called, without regard to case; open_clip_train's own defaults are filepath and title.
_COLUMNS = {
    "path": ("path", "filepath", "image", "file", "filename"),
    "label": ("label", "class"),
    "caption": ("caption", "title", "text"),
    "split": ("split",),
    "group": ("group",),
}
_DELIMITERS = ("\t", ",", ";")
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
            data = read_bytes(path, MOST_IMAGE_BYTES)
        except OSError as error:
            raise unreadable(error, path, "get the image again") from error
        if self.captions:
            return Sample(self.paths[index], data, captions=self.captions[index])
        group = self.groups[index] if self.groups else -1
        return Sample(self.paths[index], data, label=self.labels[index], group=group)


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
        text = read_text(path, "utf-8-sig", _MOST_TABLE_BYTES)
    except OSError as error:
        raise unreadable(error, path, "get the table, or mend its permissions") from error
    except UnicodeDecodeError as error:
        raise DataError(f"cannot be read: {error}", path, "write it in UTF-8") from error
    try:
        captions, rows, notes = _rows(text, path, split)
    except csv.Error as error:
        raise DataError(f"is no table: {error}", path, "fields hold fewer than 131,072 characters") from error
    root, paths = path.parent, tuple(row.path for row in rows)
    if captions:
        texts: dict[str, list[str]] = {}
        for row in rows:
            texts.setdefault(os.path.normpath(row.path), []).append(row.value)
        captions_of = tuple(map(tuple, texts.values()))
        return ImageFiles(str(path), root, tuple(texts), (), captions_of, (), path, notes=tuple(notes))
    labels, names = _labels(rows, path, classnames)
    notes += _contradictions(rows, labels)
    return ImageFiles(str(path), root, paths, labels, (), names, path, _groups(rows, path), tuple(notes))


def _contradictions(rows: Sequence[_Row], labels: Sequence[int]) -> list[str]:
    """Return a note where one image has several labels: it is scored once a row, and right once at most."""
    labels_of: dict[str, set[int]] = {}
    for row, label in zip(rows, labels, strict=True):
        labels_of.setdefault(os.path.normpath(row.path), set()).add(label)
    several = [path for path, own in labels_of.items() if len(own) > 1]
    if not several:
        return []
    return [f"{len(several)} images have several labels, such as {several[0]}: each is scored once a row"]


def _rows(text: str, path: Path, split: str) -> tuple[bool, list[_Row], list[str]]:
    """Return whether values are captions, the rows of `split`, and what a person should know about the columns."""
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
    lowered = [name.strip().lower() for name in header]
    for column in columns.values():
        if lowered.count(lowered[column]) > 1:
            raise DataError(f"has two columns {lowered[column]!r}", path, "give each column a name of its own")
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
        if "split" in columns and cells[columns["split"]].strip().casefold() != split.casefold():
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
    return "label" not in columns, rows, _unread(lowered, columns)


def _unread(header: Sequence[str], columns: Mapping[str, int]) -> list[str]:
    """Return a note for each column that another one is read instead of."""
    notes = []
    read = {kind: column for kind, column in columns.items() if kind != "caption" or "label" not in columns}
    for column, name in enumerate(header):
        kind = next((kind for kind, names in _COLUMNS.items() if name in names), None)
        instead = read.get(kind, read.get("label") if kind == "caption" else None) if kind else None
        if instead is not None and instead != column:
            notes.append(f"the column {header[instead]!r} is read, and {name!r} is not")
    return notes


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
        for number in sorted(set(whole)) if classnames else ():
            if number < len(classnames):
                refuse_two_meanings(str(number), number, classnames, path.parent / "classnames.txt")
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


def refuse_two_meanings(text: str, number: int, given: Sequence[str], where: object) -> None:
    """Raise DataError where the label `text`, which is `number`, is also what another class of `given` is called."""
    if str(number) in given and given[number] != str(number):
        what = f"is the name of class {given.index(str(number))} in {where}, and the number of {given[number]!r}"
        raise DataError(what, f"the label {text!r}", "name the classes in the order of these numbers, or in words")


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
