"""What images are compared with: directions that the text tower makes of prompts and captions, or the outputs of a head
that stand for a task's classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from soupkit.checkpoint.architecture import Config
from soupkit.errors import ArchitectureError, StorageError
from soupkit.evaluation.adapter import open_tokenizer
from soupkit.evaluation.classifier import differentiate_classifier
from soupkit.evaluation.head_labels import map_labels, selection
from soupkit.evaluation.kinds import KINDS
from soupkit.evaluation.pixels import Pixels
from soupkit.evaluation.prompts import PromptEncoder, tokenize
from soupkit.evaluation.task import Task
from soupkit.evaluation.task_runs import TASK_RUNS

_TOGETHER = 256  # prompts


class TextSides(Protocol):
    """What the images of each of several tasks are compared with."""

    def of(self, task: int, model: nn.Module) -> Tensor:
        """Return it for task number `task`, by the weights that `model` has now."""

    def differentiate(self, task: int, model: nn.Module, gradient: Tensor, together: int) -> None:
        """Add to the gradients of the parameters of `model` what follows from `gradient`, that of a loss by what `of`
        returns for task number `task`, with the activations of `together` prompts at once."""

    def halve(self, error: Exception) -> None:
        """Take half as much together from now on, for `error`. Raises StorageError where that is not possible."""

    def weights_came(self, model: nn.Module) -> None:
        """Forget what was found out while `model` had no weights."""


class PromptSides:
    """Prompts and captions, tokenised once, encoded as often as the weights change."""

    def __init__(
        self, tasks: Sequence[Task], pixels: Sequence[Pixels], config: Config, tokenizer_files: tuple[Path, ...],
        device: torch.device, where: object,
    ) -> None:  # fmt: skip
        """Raises CheckpointError where the tokenizer's files are missing."""
        tokenizer = open_tokenizer(config, tokenizer_files, where)
        self._tasks, self._device, self._together = tasks, device, _TOGETHER
        self._prompts = [
            tokenize(tokenizer, KINDS[task.kind].texts(task, of_task))
            for task, of_task in zip(tasks, pixels, strict=True)
        ]
        # Whether a model's prompts go over their prefix tree: asked once, of the first weights it encodes with.
        self._uses_tree: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()

    def of(self, task: int, model: nn.Module) -> Tensor:
        """Return what the text tower makes of the task's texts."""
        uses_tree = self._uses_tree.get(model)
        encoder = PromptEncoder(model, self._prompts[task], self._device, self._together, uses_tree)
        self._uses_tree[model] = encoder.uses_tree
        return TASK_RUNS[self._tasks[task].kind].text_side(encoder, self._tasks[task])

    def differentiate(self, task: int, model: nn.Module, gradient: Tensor, together: int) -> None:
        """Encode the prompts of a classification again, part by part, each at full length, and go back from there."""
        differentiate_classifier(model, self._prompts[task], gradient, together)

    def halve(self, error: Exception) -> None:
        """Encode half as many prompts together."""
        if self._together == 1:
            hint = "choose another --precision or --device"
            raise StorageError("has no room for one prompt", self._device, hint) from error
        self._together //= 2

    def weights_came(self, model: nn.Module) -> None:
        """Ask again whether prompts go over their prefix tree."""
        self._uses_tree.pop(model, None)


class HeadSides:
    """Outputs of a classifier's head."""

    def __init__(self, tasks: Sequence[Task], config: Config, device: torch.device, where: object) -> None:
        """Raises ArchitectureError for tasks that are no classification, DataError where labels do not fit."""
        for task in tasks:
            if task.kind != "classification":
                what = f"has a head and no text tower, and {task.name} is a task of {task.kind}"
                raise ArchitectureError(what, where, "name tasks of classification")
        maps = [map_labels(config, task, where) for task in tasks]
        self._sides = [selection(each.outputs, config["outputs"]).to(device) for each in maps]

    def of(self, task: int, model: nn.Module) -> Tensor:
        """Return what picks the task's classes out of the head's, float32 [outputs, classes]."""
        return self._sides[task]

    def differentiate(self, task: int, model: nn.Module, gradient: Tensor, together: int) -> None:
        """Add nothing: what picks outputs does not depend on the weights."""

    def halve(self, error: Exception) -> None:
        """Raise `error`: what picks outputs is as small as it can be."""
        raise error

    def weights_came(self, model: nn.Module) -> None:
        """Nothing was found out."""
