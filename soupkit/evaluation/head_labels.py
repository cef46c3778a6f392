"""Which output of a classifier's head stands for which class of a task: by name, by ImageNet's numbers, by a file, and
by position where nothing else is known, which is said."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from soupkit.checkpoint.architecture import Config
from soupkit.errors import DataError
from soupkit.evaluation.task import Task

_HINT = "say which output is which with --label-map FILE: a line for each class of the task, an output's name or number"


@dataclass(frozen=True, slots=True)
class LabelMap:
    """The number of an output for each class of a task, and how that is known."""

    outputs: tuple[int, ...]
    how: str


def map_labels(config: Config, task: Task, where: object) -> LabelMap:
    """Return which outputs of the head of `config`, that of `where`, stand for the classes of `task`.

    A map that the config holds counts before all else. Raises DataError where they cannot be brought together.
    """
    labels, outputs = config["labels"], config["outputs"]
    if config.get("label_map") is not None:
        return LabelMap(_from_lines(config["label_map"], task, labels, outputs), "by --label-map")
    if labels is not None and list(labels) == list(task.classnames):  # also where two classes have one name
        return LabelMap(tuple(range(outputs)), "by name")
    if labels is not None and (by_name := _by_name(labels, task.classnames)) is not None:
        return LabelMap(by_name, "by name")
    if _is_of_imagenet(labels, outputs) and (numbers := _imagenet_numbers(task.classnames)) is not None:
        return LabelMap(numbers, "by ImageNet's numbers, since the names of its classes are open_clip's")
    place = f"{where} on {task.name}"
    if labels is not None:
        known = {name for label in labels for name in _names(label)}
        odd = [name for name in task.classnames if _plain(name) not in known]
        what = f"has a head of {len(labels)} classes, and none of them is {odd[0]!r}" if odd else "has two labels alike"
        raise DataError(f"{what} ({len(odd)} of the task's {len(task.classnames)} classes)", place, _HINT)
    if outputs != len(task.classnames):
        what = f"has a head of {outputs} classes without names, and the task has {len(task.classnames)}"
        raise DataError(what, place, _HINT)
    return LabelMap(tuple(range(outputs)), f"by position, {outputs} of each, since the head has no names")


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _names(label: str) -> set[str]:
    """Return what a label may be called: all of it, and each of several synonyms, as "tench, Tinca tinca" has."""
    return {_plain(label), *map(_plain, label.split(","))}


def _by_name(labels: Sequence[str], classnames: Sequence[str]) -> tuple[int, ...] | None:
    """Return the one output that is called as each class is; None where a class has none, or several."""
    counts = Counter(name for label in labels for name in _names(label))
    whole = {_plain(label): i for i, label in enumerate(labels)}
    one_of = {name: i for i, label in enumerate(labels) for name in _names(label) if counts[name] == 1}
    found = [whole.get(_plain(name), one_of.get(_plain(name))) for name in classnames]
    numbers = tuple(number for number in found if number is not None)
    return numbers if len(set(numbers)) == len(classnames) else None


def _is_of_imagenet(labels: Sequence[str] | None, outputs: int) -> bool:
    """Whether a head is one of ImageNet's 1000 classes: it has as many, and no names or ImageNet's own."""
    if outputs != 1000 or labels is None:
        return outputs == 1000
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    described = [_plain(text.split(",")[0]) for text in info.label_descriptions()]
    alike = sum(_plain(label.split(",")[0]) == text for label, text in zip(labels, described, strict=True))
    return list(labels) == list(info.label_names()) or alike >= 900


def _imagenet_numbers(classnames: Sequence[str]) -> tuple[int, ...] | None:
    """Return ImageNet's numbers of classes that have open_clip's names; None where they have others.

    Two of these names, "missile" and "sunglasses", stand for two classes each. They are told apart where the classes
    stand in ImageNet's order, as in the whole list and in ImageNet-R, and one choice alone keeps it.
    """
    from open_clip import IMAGENET_CLASSNAMES

    numbers: dict[str, list[int]] = {}
    for i, name in enumerate(IMAGENET_CLASSNAMES):
        numbers.setdefault(name, []).append(i)
    if not all(name in numbers for name in classnames):
        return None
    choices = [numbers[name] for name in classnames]
    if all(len(choice) == 1 for choice in choices):
        return tuple(choice[0] for choice in choices)
    lowest = _ascending(choices)
    highest = _ascending([[-i for i in choice] for choice in reversed(choices)])
    if lowest is None or highest is None or lowest != tuple(-i for i in reversed(highest)):
        return None
    return lowest


def _ascending(choices: Sequence[Sequence[int]]) -> tuple[int, ...] | None:
    """Return one of each of the choices, each the least that is above the one before; None where there is none."""
    chosen: list[int] = []
    for choice in choices:
        above = [i for i in choice if not chosen or i > chosen[-1]]
        if not above:
            return None
        chosen.append(min(above))
    return tuple(chosen)


def _from_lines(lines: Sequence[str], task: Task, labels: Sequence[str] | None, outputs: int) -> tuple[int, ...]:
    if len(lines) != len(task.classnames):
        what = f"has {len(lines)} lines, and {task.name} {len(task.classnames)} classes"
        raise DataError(what, "--label-map", "write a line for each class of the task, in the order of its class names")
    numbers: list[int] = []
    for n, line in enumerate(lines, 1):
        if labels is not None and line in labels:
            numbers.append(list(labels).index(line))
        elif line.isascii() and line.isdigit() and int(line) < outputs:
            numbers.append(int(line))
        else:
            raise DataError(f"names {line!r}, which is no output of the head", f"--label-map, line {n}", _HINT)
        if numbers[-1] in numbers[:-1]:
            what = f"names output {numbers[-1]} again, which line {numbers.index(numbers[-1]) + 1} names already"
            raise DataError(what, f"--label-map, line {n}", "an output stands for one class: each has its own")
    return tuple(numbers)


def selection(outputs: Sequence[int], of: int) -> Tensor:
    """Return what logits of `of` classes are multiplied by to pick `outputs` out of them, float32 [of, classes]."""
    chosen = torch.zeros(of, len(outputs))
    chosen[torch.tensor(outputs), torch.arange(len(outputs))] = 1
    return chosen
