"""The small values that evaluation is made of: a task, its samples, and the score that comes out."""

from dataclasses import dataclass, field
from typing import Literal, Protocol

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
    """Where a task's images come from."""

    @property
    def place(self) -> str:
        """What errors call it: a folder or a file."""

    def files(self) -> list[str]:
        """Paths of every file that is read, in order; when one of them changes, so does the dataset."""

    def beside_files(self) -> str:
        """What belongs to the images and is not said by the contents of the files, such as labels from folder names."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Sample:
        """Return sample `index`. Raises DataError. Safe to call from several threads."""


@dataclass(frozen=True, slots=True)
class Task:
    """A dataset with what turns it into a score.

    `metric` is the main one. `templates` hold `{c}` where the class name goes; retrieval tasks have neither class names
    nor templates. `notes` say what a person should know about how the task was read.
    """

    name: str
    split: str
    kind: Kind
    metric: str
    dataset: Dataset
    classnames: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Score:
    """What one model reached on one task. Fractions; `low` and `high` bound the 95 % interval of the main metric.

    `n` counts images. `metrics` holds all of the task's metrics; one that does not exist (top-5 of four classes) is
    None.
    """

    ref: str
    fingerprint: str | None
    task: str
    split: str
    metric: str
    value: float
    n: int
    low: float
    high: float
    metrics: dict[str, float | None] = field(default_factory=dict)
