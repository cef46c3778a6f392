"""The kinds of tasks, which differ in what belongs to an image: a class, a flag for each class, or captions."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from soupkit.errors import DataError
from soupkit.evaluation.npy import read_vector
from soupkit.evaluation.pixels import Pixels
from soupkit.evaluation.prompts import fill_templates
from soupkit.evaluation.task import Sample, Task

_FLAGS = "each class has one flag"
_NUMBER = re.compile(rb"[+-]?[0-9]{1,15}")
_LINE_END = re.compile(r"\r\n?|\n")  # str.splitlines would end a caption at a form feed, too


class Kind(Protocol):
    """What is particular to a kind of task.

    `suffix` is the member of a shard's sample that says what belongs to the image, and `label_hint` what it should
    hold; `metric` is the main one unless a task says otherwise; `has_classes` whether there are class names and
    templates.
    """

    name: str
    suffix: str
    label_hint: str
    metric: str
    has_classes: bool

    def parse(self, key: str, image: bytes, stored: bytes) -> Sample:
        """Return the sample of an image file and of what is `stored` beside it.

        Raises ValueError, whose words say what it has.
        """

    def check_sample(self, sample: Sample, task: Task) -> None:
        """Raise DataError where what belongs to the image does not fit the task's classes."""

    def labels(self, stored: Sequence[Any]) -> np.ndarray:
        """Return the labels that the pixel cache holds as an array, [N] or [N, classes]."""

    def check(self, task: Task, pixels: Pixels) -> None:
        """Raise DataError where the images cannot be scored."""

    def texts(self, task: Task, pixels: Pixels) -> Iterator[str]:
        """Return what the text tower reads."""

    def text_count(self, task: Task) -> int:
        """Return about how many texts that are, before an image is read."""


class Classification:
    """Each image is of one class."""

    name, suffix, metric, has_classes = "classification", "cls", "acc1", True
    label_hint = "cls is the number of a class, which counts from 0 in the order of classnames.txt"

    def parse(self, key: str, image: bytes, stored: bytes) -> Sample:
        """Return a sample with its `label`, a decimal number."""
        if not _NUMBER.fullmatch(stored.strip()):
            raise ValueError(f"{stored[:40].decode(errors='replace')!r} in .cls, which is not the number of a class")
        return Sample(key, image, label=int(stored))

    def check_sample(self, sample: Sample, task: Task) -> None:
        """Raise DataError for a label out of range."""
        if not 0 <= sample.label < len(task.classnames):
            raise _out_of_range(sample.label, sample.key, task)

    def labels(self, stored: Sequence[Any]) -> np.ndarray:
        """Return the classes, int64 [N]."""
        return np.array(stored, np.int64)

    def check(self, task: Task, pixels: Pixels) -> None:
        """Raise DataError for a label out of range: the class names may be fewer than when the pixels were kept."""
        wrong = np.flatnonzero((pixels.labels < 0) | (pixels.labels >= len(task.classnames)))
        if len(wrong):
            raise _out_of_range(int(pixels.labels[wrong[0]]), pixels.keys[wrong[0]], task)

    def texts(self, task: Task, pixels: Pixels) -> Iterator[str]:
        """Return the prompts, class by class."""
        return fill_templates(task.classnames, task.templates, task.dataset.place)

    def text_count(self, task: Task) -> int:
        """Return the number of prompts."""
        return len(task.classnames) * len(task.templates)


def _out_of_range(label: int, key: str, task: Task) -> DataError:
    return DataError(
        f"has label {label}, which is out of range: the task has {len(task.classnames)} classes",
        f"{task.dataset.place}, {key}",
        "labels count from 0, in the order of classnames.txt",
    )


class Multilabel(Classification):
    """Each image has a flag for each class."""

    name, suffix, metric = "multilabel", "npy", "mean_average_precision"
    label_hint = "npy is a flag for each class, 1 or 0, an array in numpy's format"

    def parse(self, key: str, image: bytes, stored: bytes) -> Sample:
        """Return a sample with its flags, an array in numpy's format of 1 and 0, or of 1 and -1 or 0."""
        flags = read_vector(stored)
        if not np.isin(flags, (-1, 0, 1)).all():
            odd = flags[~np.isin(flags, (-1, 0, 1))][0]
            raise ValueError(f"{odd} in .npy, which is no flag")
        return Sample(key, image, labels=tuple(bool(flag > 0) for flag in flags))

    def check_sample(self, sample: Sample, task: Task) -> None:
        """Raise DataError where there are more or fewer flags than classes."""
        if len(sample.labels) != len(task.classnames):
            raise DataError(
                f"has {len(sample.labels)} flags, and the task {len(task.classnames)} class names",
                f"{task.dataset.place}, {sample.key}",
                _FLAGS,
            )

    def labels(self, stored: Sequence[Any]) -> np.ndarray:
        """Return the flags, bool [N, classes]."""
        return np.array(stored, bool)

    def check(self, task: Task, pixels: Pixels) -> None:
        """Raise DataError where there are not as many flags as classes, or no image has any."""
        flags, classes = pixels.labels.shape[1], len(task.classnames)
        if flags != classes:
            raise DataError(f"has {flags} flags an image, and {classes} class names", task.dataset.place, _FLAGS)
        if not pixels.labels[pixels.rows].any():
            raise DataError(
                "has no image with any label", task.dataset.place, "there is no precision to take the mean of"
            )


class Retrieval:
    """Each image has captions, and is to be found by each of them."""

    name, suffix, metric, has_classes = "retrieval", "txt", "mean_recall@1", False
    label_hint = "txt is one caption a line, in UTF-8"

    def parse(self, key: str, image: bytes, stored: bytes) -> Sample:
        """Return a sample with its captions, one a line."""
        try:
            text = stored.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError("captions that are no UTF-8") from error
        captions = tuple(line.strip() for line in _LINE_END.split(text) if line.strip())
        if not captions:
            raise ValueError("no caption in .txt")
        return Sample(key, image, captions=captions)

    def check_sample(self, sample: Sample, task: Task) -> None:
        """Captions fit every task."""

    def labels(self, stored: Sequence[Any]) -> np.ndarray:
        """Return nothing of meaning, int64 [N]: no image has a class."""
        return np.array(stored, np.int64)

    def check(self, task: Task, pixels: Pixels) -> None:
        """Captions fit every task."""

    def texts(self, task: Task, pixels: Pixels) -> Iterator[str]:
        """Return the captions, image by image."""
        return (caption for row in pixels.rows for caption in pixels.captions[row])

    def text_count(self, task: Task) -> int:
        """Return five captions an image, as the published sets have."""
        return len(task.dataset) * 5


class Associations(Retrieval):
    """Each image is a candidate in a game: its group. A model is to find those that go with the game's cue.

    The label is 1 for a right candidate and 0 for the others; the caption is the cue as a prompt.
    """

    name, suffix, metric, has_classes = "associations", "", "jaccard_score_10_12", False
    label_hint = "a game is candidate_images, candidates, cue and associations"

    def parse(self, key: str, image: bytes, stored: bytes) -> Sample:
        """Raise ValueError: games lie in tables, not in shards."""
        raise ValueError("no game: games lie in tables (Arrow, Parquet), not in shards")

    def check(self, task: Task, pixels: Pixels) -> None:
        """Raise DataError where no game has all of its images."""
        every, corrupt = set(pixels.groups.tolist()), set(np.delete(pixels.groups, pixels.rows).tolist())
        if not every - corrupt:
            raise DataError("has no game whose images can all be read", task.dataset.place, "get the images again")

    def texts(self, task: Task, pixels: Pixels) -> Iterator[str]:
        """Return the cue of every game, in the order of the games."""
        _, first = np.unique(pixels.groups, return_index=True)
        return (pixels.captions[row][0] for row in first)

    def text_count(self, task: Task) -> int:
        """Return one cue for eight images, about what the published games have."""
        return len(task.dataset) // 8


def cue_prompt(cue: str) -> str:
    """Return a game's cue as the prompt that WinoGAViL's authors use: in lower case, after "A" or "An"."""
    cue = cue.lower()
    return f"{'An' if cue[:1] in tuple('aeiou') else 'A'} {cue}"


KINDS: dict[str, Kind] = {kind.name: kind for kind in (Classification(), Multilabel(), Retrieval(), Associations())}


def kind_of(name: str, where: object) -> Kind:
    """Return the kind called `name`, as `where` says it. Raises DataError."""
    if name not in KINDS:
        raise DataError(f"names {name!r}, which is no type of dataset", where, f"one of {', '.join(KINDS)}")
    return KINDS[name]
