"""How models run on tasks of each kind: what the text tower makes, what the image tower sees, and what follows."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from soupkit.evaluation import image_pass
from soupkit.evaluation.classifier import zero_shot_classifier
from soupkit.evaluation.image_pass import Pass
from soupkit.evaluation.outcomes import Hits, Outcome, Ranking
from soupkit.evaluation.pixels import Pixels
from soupkit.evaluation.prompts import PromptEncoder
from soupkit.evaluation.task import Task
from soupkit.progress import Progress

Part_co = TypeVar("Part_co", covariant=True)


class Look(Protocol[Part_co]):
    """One pass of an image tower over the images of one rank."""

    def __call__(
        self, model: nn.Module, text_sides: Sequence[Tensor], pixels: Pixels, rows: np.ndarray, how: Pass,
        progress: Progress, /,
    ) -> Part_co:  # fmt: skip
        """Return what is seen on `rows`."""


class TaskRun(Protocol):
    """What is particular to models on tasks of one kind."""

    def text_side(self, encoder: PromptEncoder, task: Task) -> Tensor:
        """Return what the text tower makes of the task's texts."""

    def look(
        self, model: nn.Module, text_sides: Sequence[Tensor], pixels: Pixels, rows: np.ndarray, how: Pass,
        progress: Progress, /,
    ) -> Any:  # fmt: skip
        """Return what the image tower sees on `rows` (int64 [n]), this rank's share of the images."""

    def outcomes(
        self, parts: Sequence[Any], text_sides: Sequence[Tensor], pixels: Pixels, device: torch.device
    ) -> list[Outcome]:
        """Return an outcome for each of `text_sides`, from what every rank saw, in the order of the images."""


class _ZeroShot:
    """Images are compared with one direction per class."""

    def text_side(self, encoder: PromptEncoder, task: Task) -> Tensor:
        """Return the classifier, float32 [embed, classes]."""
        return zero_shot_classifier(encoder, len(task.classnames))


class _Classification(_ZeroShot):
    def look(
        self, model: nn.Module, text_sides: Sequence[Tensor], pixels: Pixels, rows: np.ndarray, how: Pass,
        progress: Progress, /,
    ) -> list[Hits]:  # fmt: skip
        """Return the hits of each classifier."""
        return image_pass.classify(model, text_sides, pixels, rows, how, progress)

    def outcomes(
        self, parts: Sequence[list[Hits]], text_sides: Sequence[Tensor], pixels: Pixels, device: torch.device
    ) -> list[Outcome]:
        """Join the ranks' hits."""
        return [_joined_hits([part[i] for part in parts]) for i in range(len(text_sides))]


def _joined_hits(parts: Sequence[Hits]) -> Hits:
    among_five = [part.top5 for part in parts if part.top5 is not None]
    return Hits(
        np.concatenate([part.top1 for part in parts]),
        np.concatenate(among_five) if among_five else None,
        np.concatenate([part.labels for part in parts]),
    )


class _Multilabel(_ZeroShot):
    def look(
        self, model: nn.Module, text_sides: Sequence[Tensor], pixels: Pixels, rows: np.ndarray, how: Pass,
        progress: Progress, /,
    ) -> list[Ranking]:  # fmt: skip
        """Return the scores of every class by each classifier."""
        return image_pass.rank_labels(model, text_sides, pixels, rows, how, progress)

    def outcomes(
        self, parts: Sequence[list[Ranking]], text_sides: Sequence[Tensor], pixels: Pixels, device: torch.device
    ) -> list[Outcome]:
        """Join the ranks' scores."""
        if len(parts) == 1:  # on disk, perhaps larger than memory
            return list(parts[0])
        return [
            Ranking(
                np.concatenate([part[i].scores for part in parts]), np.concatenate([part[i].labels for part in parts])
            )
            for i in range(len(text_sides))
        ]


class _Retrieval:
    def text_side(self, encoder: PromptEncoder, task: Task) -> Tensor:
        """Return the features of every caption, float32 [captions, embed], on disk."""
        captions: Tensor | None = None
        rows = encoder.prompts.rows
        for part, features in encoder.parts():
            if captions is None:
                captions = image_pass.on_disk(len(rows), features.shape[1])
            texts = torch.nonzero((rows >= part.start) & (rows < part.stop)).flatten()
            captions[texts] = features.cpu()[rows[texts] - part.start]
        assert captions is not None
        return captions

    def look(
        self, model: nn.Module, text_sides: Sequence[Tensor], pixels: Pixels, rows: np.ndarray, how: Pass,
        progress: Progress, /,
    ) -> Tensor:  # fmt: skip
        """Return the images' features."""
        return image_pass.embed(model, pixels, rows, how, progress)

    def outcomes(
        self, parts: Sequence[Tensor], text_sides: Sequence[Tensor], pixels: Pixels, device: torch.device
    ) -> list[Outcome]:
        """Compare all images with all captions."""
        images = image_pass.joined([part for part in parts if len(part)])
        owner = np.repeat(np.arange(len(images)), [len(pixels.captions[row]) for row in pixels.rows])
        return [image_pass.match(images, captions, owner, device) for captions in text_sides]


TASK_RUNS: dict[str, TaskRun] = {
    "classification": _Classification(),
    "multilabel": _Multilabel(),
    "retrieval": _Retrieval(),
}
