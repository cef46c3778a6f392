"""The small values that evaluation is made of: a task, its samples, and the score that comes out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Protocol

import numpy as np
from pydantic import Field

Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=1 << 63)]  # more is no count, and no number of an array
# Base64 whose first bytes are a JPEG's: what a document of others holds may be nothing else on a page.
Jpeg = Annotated[str, Field(pattern=r"^/9j/[A-Za-z0-9+/]*={0,2}$", max_length=64 << 10)]
MAIN_METRIC = "main_metric.txt"  # beside classnames.txt: the name of the metric that is the value of a folder's score


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a dataset as it is stored: its `key` names it in errors, `data` are the bytes of the file.

    `label` is a class (classification), `labels` one flag per class (multilabel), `captions` the texts that belong to
    the image (retrieval); `group` is the group of images that it is counted in, -1 for none.
    """

    key: str
    data: bytes
    label: int = -1
    labels: tuple[bool, ...] = ()
    captions: tuple[str, ...] = ()
    group: int = -1


class Dataset(Protocol):
    """Where a task's images come from."""

    @property
    def place(self) -> str:
        """What errors call it: a folder or a file."""

    def files(self) -> list[str]:
        """Paths of every file that is read, in order; when one of them changes, so does the dataset."""

    def beside_files(self) -> str:
        """What belongs to the images and is not said by the contents of the files, such as labels from folder names."""

    def __len__(self) -> int: ...

    def some(self, limit: int) -> Sequence[int]:
        """Return the numbers of about `limit` samples, spread over the whole."""

    def read(self, index: int) -> Sample:
        """Return sample `index`. Raises DataError. Safe to call from several threads."""


def evenly(n: int, limit: int) -> list[int]:
    """Return `limit` of the numbers below `n`, evenly spread; all of them where there are fewer."""
    return list(range(n)) if limit >= n else np.linspace(0, n - 1, limit).round().astype(int).tolist()


@dataclass(frozen=True, slots=True)
class Part:
    """Some samples of a dataset, for trying things out."""

    dataset: Dataset
    indices: tuple[int, ...]

    @property
    def place(self) -> str:
        """The dataset's place."""
        return self.dataset.place

    def files(self) -> list[str]:
        """Return the dataset's files."""
        return self.dataset.files()

    def beside_files(self) -> str:
        """Return what the dataset says."""
        return self.dataset.beside_files()

    def __len__(self) -> int:
        return len(self.indices)

    def some(self, limit: int) -> list[int]:
        """Return some of these, evenly spread."""
        return evenly(len(self), limit)

    def read(self, index: int) -> Sample:
        """Return sample `index` of these."""
        return self.dataset.read(self.indices[index])


@dataclass(frozen=True, slots=True)
class Task:
    """A dataset with what turns it into a score.

    `kind` is a name in `soupkit.evaluation.kinds.KINDS`, `metric` the main one, a name in
    `soupkit.evaluation.metrics.METRICS`. `templates` hold `{c}` where the class name goes; retrieval tasks have neither
    class names nor templates. Metrics in `also` are reported beside the main one and those of every task of its kind.
    `notes` say what a person should know about how the task was read.

    >>> from soupkit.evaluation import open_tasks
    >>> open_tasks(["digits"])[0].classnames[:3]
    ('zero', 'one', 'two')
    """

    name: str
    split: str
    kind: str
    metric: str
    dataset: Dataset
    classnames: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    also: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Score:
    """What one model reached on one task. Fractions; `low` and `high` bound the 95 % interval of the main metric.

    `n` counts images, or games of associations. `metrics` holds all of the task's metrics; one that does not exist
    (top-5 of four classes) is None. Raises ValueError for an interval that ends before it begins.

    >>> score = Score("runs/a", None, "pets", "test", "acc1", value=0.75, n=400, low=0.705, high=0.79)
    >>> score.value * score.n
    300.0
    """

    ref: str
    fingerprint: str | None
    task: str
    split: str
    metric: str
    value: Fraction
    n: Count
    low: Fraction
    high: Fraction
    metrics: dict[str, Number | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("its interval ends before it begins")


@dataclass(frozen=True, slots=True)
class Bin:
    """The images whose likeliest class has a probability in one of equal parts of 0 to 1: how many they are, the mean
    of that probability, and the share that is right. The last two are 0 where there are none."""

    images: Count
    confidence: Fraction
    accuracy: Fraction


@dataclass(frozen=True, slots=True)
class Reliability:
    """What a reliability diagram of one model on one task shows: bins of the confidence, from 0 to 1."""

    ref: str
    task: str
    split: str
    bins: tuple[Bin, ...]


@dataclass(frozen=True, slots=True)
class ClassHits:
    """How many images of each class of a task a model gets right: `right` of `images`, in the order of `classes`."""

    ref: str
    task: str
    split: str
    classes: tuple[str, ...]
    images: tuple[Count, ...]
    right: tuple[Count, ...]

    def __post_init__(self) -> None:
        if not len(self.classes) == len(self.images) == len(self.right):
            raise ValueError("classes, images and right are of different lengths")
        if any(right > images for right, images in zip(self.right, self.images, strict=True)):
            raise ValueError("more images of a class are right than there are")


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of a task: its key, the name of its class, and a small JPEG of it in base64."""

    key: str
    label: str
    jpeg: Jpeg


@dataclass(frozen=True, slots=True)
class PairPictures:
    """Some pictures of a task that only the first of two models gets right, and some that only the second does."""

    first: str
    second: str
    task: str
    split: str
    only_first: tuple[Picture, ...] = ()
    only_second: tuple[Picture, ...] = ()


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models on one task, image by image: how many only one of them gets right, McNemar's exact p-value, and which
    images those are (their keys; empty where the scores came from the cache of another place)."""

    first: str
    second: str
    task: str
    split: str
    only_first: Count
    only_second: Count
    p: Fraction
    images_only_first: tuple[str, ...] = ()
    images_only_second: tuple[str, ...] = ()
