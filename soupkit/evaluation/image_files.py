"""Datasets of plain image files: a folder of folders (`class/name.jpg`), or a CSV of paths and labels or captions."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

from soupkit.errors import DataError
from soupkit.evaluation.task import Sample

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm")
_PATH_COLUMNS = ("path", "filepath", "image", "file")


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """Image files with what belongs to each. `names` are the classes as the source calls them, in label order."""

    place: str
    root: Path
    paths: tuple[str, ...]
    labels: tuple[int, ...]
    captions: tuple[tuple[str, ...], ...]
    names: tuple[str, ...]
    table: Path | None = None

    def files(self) -> list[str]:
        """Return the images, after the table that names them if there is one."""
        return [*([str(self.table)] if self.table else []), *(str(self.root / p) for p in self.paths)]

    def beside_files(self) -> str:
        """Return the labels: they come from the folders' names, or from the names of classes in another file."""
        return json.dumps(self.labels)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> Sample:
        """Return sample `index`. Raises DataError for a file that cannot be read."""
        path = self.root / self.paths[index]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}", path, "get the image again") from error
        if self.captions:
            return Sample(self.paths[index], data, captions=self.captions[index])
        return Sample(self.paths[index], data, label=self.labels[index])


def image_folder(directory: Path) -> ImageFiles:
    """List `directory/class/.../name.jpg`. Classes are the directories in the order of their names, as torchvision's
    ImageFolder has them, or of their numbers when all are numbers. Raises DataError where there are none, or an empty
    one."""
    folders = [p for p in directory.iterdir() if p.is_dir() and not p.name.startswith(".")]
    if not folders:
        raise DataError("holds no class folders", directory, "an image folder is class/name.jpg")
    if all(p.name.isdigit() for p in folders):
        folders.sort(key=lambda p: int(p.name))
    else:
        folders.sort(key=lambda p: p.name)
    paths, labels = [], []
    for label, folder in enumerate(folders):
        images = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_ENDINGS and p.is_file())
        if not images:
            raise DataError("holds no images", folder, f"soupkit reads {', '.join(IMAGE_ENDINGS)}")
        paths += [str(p.relative_to(directory)) for p in images]
        labels += [label] * len(images)
    return ImageFiles(str(directory), directory, tuple(paths), tuple(labels), (), tuple(f.name for f in folders))


def image_table(path: Path, split: str, classnames: tuple[str, ...]) -> ImageFiles:
    """Read a CSV or TSV with a header: `path` (also `filepath`, `image`, `file`) and `label`, or `caption`.

    Paths are relative to the file. A label is a class number, or a class name: one of `classnames`, or where there are
    none the distinct names in alphabetical order. Rows of one path are one image with several captions. Where there is
    a column `split`, only its rows count. Raises DataError, with the line, for anything else.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", path, "a table is CSV or TSV in UTF-8") from error
    head = text.partition("\n")[0]
    rows = csv.DictReader(text.splitlines(), delimiter="\t" if "\t" in head else ",")
    columns = rows.fieldnames or []
    path_column = next((c for c in _PATH_COLUMNS if c in columns), None)
    value_column = next((c for c in ("label", "caption") if c in columns), None)
    if path_column is None or value_column is None:
        raise DataError(f"has the columns {', '.join(columns) or 'none'}", path, "it needs path and label, or caption")
    entries: list[tuple[int, str, str]] = []
    for row in rows:
        if "split" in columns and row["split"] != split:
            continue
        name, value = row[path_column], row[value_column]
        if not name or value is None or not value.strip():
            raise DataError("lacks a path or a label", f"{path}, line {rows.line_num}", "fill the cell or take it out")
        entries.append((rows.line_num, name, value.strip()))
    if not entries:
        of_split = f" of split {split!r}" if "split" in columns else ""
        raise DataError(f"has no rows{of_split}", path, "a row is the path of an image and its label")
    root = path.parent
    if value_column == "caption":
        captions: dict[str, list[str]] = {}
        for _, name, value in entries:
            captions.setdefault(name, []).append(value)
        texts = tuple(tuple(c) for c in captions.values())
        return ImageFiles(str(path), root, tuple(captions), (), texts, (), path)
    paths = tuple(name for _, name, _ in entries)
    if all(value.isdigit() for _, _, value in entries):
        labels = tuple(int(value) for _, _, value in entries)
        names = classnames or tuple(str(i) for i in range(max(labels) + 1))
        return ImageFiles(str(path), root, paths, labels, (), names, path)
    names = classnames or tuple(sorted({value for _, _, value in entries}))
    numbers = {name: i for i, name in enumerate(names)}
    for line, _, value in entries:
        if value not in numbers:
            what = f"has the label {value!r}, which is none of the {len(names)} classes"
            raise DataError(what, f"{path}, line {line}", "classnames.txt names them, one a line")
    return ImageFiles(str(path), root, paths, tuple(numbers[value] for _, _, value in entries), (), names, path)
