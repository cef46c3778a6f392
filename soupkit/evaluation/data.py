"""The small values that evaluation is made of: a task, its images and prompts, and the scores that come out."""

from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

Kind = Literal["classification", "multilabel", "retrieval"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a dataset as it is stored: its `key` names it in errors, `data` are the bytes of the file.

    `label` is a class (classification), `labels` one flag per class (multilabel), `captions` the texts that belong to
    the image (retrieval).
    """

    key: str
    data: bytes
    label: int = -1
    labels: tuple[bool, ...] = ()
    captions: tuple[str, ...] = ()


class Dataset(Protocol):
    """Where a task's images come from. Reading is sequential and may be repeated."""

    @property
    def place(self) -> str:
        """What errors call it: a folder or a file."""

    def files(self) -> list[str]:
        """Paths of every file that is read; when one of them changes, so does the dataset."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Sample:
        """Return sample `index`. Raises DataError. Safe to call from several threads."""


@dataclass(frozen=True, slots=True)
class Task:
    """A dataset with what turns it into a score.

    `metric` is the main one. `templates` hold `{c}` where the class name goes; retrieval tasks have neither class names
    nor templates.
    """

    name: str
    split: str
    kind: Kind
    metric: str
    dataset: Dataset
    classnames: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pixels:
    """The decoded images of a task: uint8 [N, H, W, 3], cropped and resized, not yet normalised; a memory map.

    `labels` is int64 [N] (classification) or bool [N, classes] (multilabel); `captions` holds the texts of each image
    (retrieval); `hashes` are xxh3-128 of the stored image bytes; `content` names all of it.
    """

    images: np.ndarray
    labels: np.ndarray
    keys: tuple[str, ...]
    hashes: tuple[bytes, ...]
    content: str
    captions: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Score:
    """What one model reached on one task. Fractions; `low` and `high` bound the 95 % interval of the main metric.

    `metrics` holds all of the task's metrics; one that does not exist (top-5 of four classes) is None.
    """

    ref: str
    fingerprint: str
    task: str
    split: str
    metric: str
    value: float
    n: int
    low: float
    high: float
    metrics: dict[str, float | None] = field(default_factory=dict)
