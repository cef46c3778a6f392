"""What the classes of a dataset are called, and the prompts that they are put into."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from soupkit.errors import DataError
from soupkit.evaluation.pasted_code import texts_in_code
from soupkit.evaluation.text_files import read_lines

CLASSNAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"
_ONE_TEMPLATE = "a photo of a {c}."
_WNID = re.compile(r"n[0-9]{8}")
_NUMBER = re.compile(r"[0-9]{1,15}")
_LISTED = re.compile(r"([0-9]{1,7})(\s*[,;)\t]\s*|[.:]\s+|\s+)(\S.*)")  # a number, what separates it, and a name

_ALIKE = "a model whose tokenizer makes no difference between them never finds any but the first"


@dataclass(frozen=True, slots=True)
class ClassNames:
    """The classes in the order of their labels, whether they are open_clip's names of ImageNet, and what a person
    should know about how they were made."""

    names: tuple[str, ...]
    from_imagenet: bool = False
    notes: tuple[str, ...] = ()


def lines_of(path: Path) -> tuple[str, ...]:
    """Return the lines of a file, none where it is not there. Raises DataError."""
    return tuple(read_lines(path)) if path.exists() else ()


def read_class_names(directory: Path) -> tuple[str, ...]:
    """Return the names in `classnames.txt` in `directory`, none where there is none. Raises DataError."""
    return class_names_in(directory / CLASSNAMES)


def class_names_in(path: Path) -> tuple[str, ...]:
    """Return the lines of a file of class names, none where it is not there.

    Raises DataError for lines that are no names: code, WordNet ids, names with the numbers of their lines before them.
    """
    names = lines_of(path)
    for number, name in enumerate(names, 1):
        where = f"{path}, line {number}"
        _refuse_code(name, where)
        if _WNID.match(name):
            what = f"has a WordNet id, which a model does not know: {name!r}"
            raise DataError(what, where, "write the name alone, in words, as in a prompt")
    if _are_numbered(names):
        raise DataError(
            f"has the number of its line before each name: {names[0]!r}", path, "write the names alone, one a line"
        )
    return names


def _are_numbered(names: Sequence[str]) -> bool:
    """Whether each of several names has its number before it, from 0 or from 1. "1 apple", "2 apples" are names."""
    listed = [_LISTED.fullmatch(name) for name in names]
    parts = [(int(match[1]), match[2].strip(), match[3].casefold().rstrip("s")) for match in listed if match]
    if len(parts) < max(2, len(names)) or [n for n, _, _ in parts] not in (
        list(range(len(names))),
        list(range(1, len(names) + 1)),
    ):
        return False
    return all(separator for _, separator, _ in parts) or len({name for _, _, name in parts}) == len(parts)


def said_of_names(names: Sequence[str]) -> list[str]:
    """Return what a person should know about the names of a task's classes: that several have one, or that there is
    one class alone. CLIP's tokenizer reads upper case as lower case, so that these are one as well."""
    if len(names) == 1:
        return [f"has one class alone, {names[0]!r}, and every image is found to be of it"]
    labels: dict[str, list[int]] = {}
    for label, name in enumerate(names):
        labels.setdefault(" ".join(name.casefold().split()), []).append(label)
    alike = [(names[same[0]], same) for same in labels.values() if len(same) > 1]
    return [f"classes {', '.join(map(str, same[:5]))} are called alike, {name!r}: {_ALIKE}" for name, same in alike[:5]]


def read_templates(directory: Path) -> tuple[str, ...]:
    """Return the templates in `directory`. Raises DataError where there are none, and for one that is no template."""
    path = directory / TEMPLATES
    templates = tuple(read_lines(path))
    for number, template in enumerate(templates, 1):
        where = f"{path}, line {number}"
        _refuse_code(template, where)
        if "{c}" not in template:
            raise DataError(f"has no place for the class name: {template!r}", where, "write {c} there")
        if any(brace in template.replace("{c}", "") for brace in "{}"):
            raise DataError(f"has braces that are not {{c}}: {template!r}", where, "a template has no others")
    return templates


def _refuse_code(line: str, where: str) -> None:
    if (texts := texts_in_code(line)) is not None:
        hint = f"write {texts[0]} alone" if len(texts) == 1 else "write the text alone, one entry a line"
        raise DataError(f"is code and not text: {line!r:.200}", where, hint)


def default_templates(names: ClassNames) -> tuple[str, ...]:
    """Return open_clip's 80 templates for classes of ImageNet, one template for all others."""
    if not names.from_imagenet:
        return (_ONE_TEMPLATE,)
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return tuple(template("{c}") for template in OPENAI_IMAGENET_TEMPLATES)


def names_of_folders(folders: Sequence[str], where: object) -> ClassNames:
    """Return what classes are called that have no `classnames.txt`, from the names of `folders`, those of `where`.

    WordNet ids, and the numbers 0 to 999, are open_clip's names of ImageNet; a part of the ids will do (ImageNet-A,
    ImageNet-R). All others are called what they are, with spaces for underscores. Raises DataError for ids and numbers
    whose names nobody knows: a prompt "a photo of a n99999999." would be scored like any other.
    """
    hint = f"write the names of all classes into {CLASSNAMES} beside them, one a line, in the order of the labels"
    numbers = [f for f in folders if _NUMBER.fullmatch(f)]
    if len(numbers) == len(folders):
        if [int(f) for f in folders] != list(range(1000)):
            what = f"calls its {len(folders)} classes by numbers ({', '.join(folders[:3])}, ...), and by no names"
            raise DataError(what, where, hint)
        return names_of_imagenet()
    if any(_WNID.fullmatch(f) for f in folders):
        from timm.data import ImageNetInfo

        by_id = {wnid: i for i, wnid in enumerate(ImageNetInfo("imagenet-1k").label_names())}
        if strays := [f for f in folders if f not in by_id]:
            of = "one of" if len(strays) == 1 else f"{len(strays)} of"
            what = (
                f"calls its classes by WordNet ids, and {strays[0]!r} ({of} {len(folders)}) is none of ImageNet's 1000"
            )
            raise DataError(what, where, hint)
        return _of_imagenet([by_id[f] for f in folders])
    notes = []
    if numbers:
        notes.append(f"{len(numbers)} of {len(folders)} classes have numbers for names, such as {numbers[0]!r}")
    if any("_" in f for f in folders):
        notes.append("class names are those of the data, with spaces for underscores")
    return ClassNames(tuple(f.replace("_", " ") for f in folders), notes=tuple(notes))


def names_of_imagenet() -> ClassNames:
    """Return open_clip's names of ImageNet's 1000 classes."""
    return _of_imagenet(range(1000))


def _of_imagenet(numbers: Sequence[int]) -> ClassNames:
    from open_clip import IMAGENET_CLASSNAMES

    note = f"class names are open_clip's for ImageNet, {len(numbers)} of 1000 classes"
    return ClassNames(tuple(IMAGENET_CLASSNAMES[i] for i in numbers), True, (note,))
