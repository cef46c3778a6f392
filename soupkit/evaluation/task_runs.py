"""How models run on tasks of each kind: what the text tower makes, what the image tower sees, and what follows."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from soupkit.evaluation import image_pass
from soupkit.evaluation.classifier import zero_shot_classifier
from soupkit.evaluation.image_pass import Pass
from soupkit.evaluation.outcomes import Associations, Hits, Outcome, Ranking
from soupkit.evaluation.pixels import Pixels
from soupkit.evaluation.prompts import PromptEncoder
from soupkit.evaluation.task import Task
from soupkit.progress import Progress


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
    if len(parts) == 1:  # its logits are on disk, perhaps larger than memory
        return parts[0]
    columns = {field.name: [getattr(part, field.name) for part in parts] for field in fields(Hits)}
    whole: dict[str, Any] = {name: None if c[0] is None else np.concatenate(c) for name, c in columns.items()}
    return Hits(**whole)


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


class _Associations(_Retrieval):
    """Images are compared with the cue of the game that they are candidates of."""

    def look(
        self, model: nn.Module, text_sides: Sequence[Tensor], pixels: Pixels, rows: np.ndarray, how: Pass,
        progress: Progress, /,
    ) -> Tensor:  # fmt: skip
        """Return the images' features; one that is a candidate in several games goes through the model once."""
        hashes = np.array([pixels.hashes[row] for row in rows])
        _, first, own = np.unique(hashes, return_index=True, return_inverse=True)
        progress.advance(len(rows) - len(first))
        return image_pass.embed(model, pixels, rows[first], how, progress)[torch.from_numpy(own)]

    def outcomes(
        self, parts: Sequence[Tensor], text_sides: Sequence[Tensor], pixels: Pixels, device: torch.device
    ) -> list[Outcome]:
        """Choose as many candidates of each game as there are right ones: those nearest to the cue."""
        images = image_pass.joined([part for part in parts if len(part)])
        games, game_of_each = np.unique(pixels.groups, return_inverse=True)
        game, right = game_of_each[pixels.rows], pixels.labels[pixels.rows].astype(bool)
        # A game of which an image cannot be decoded is another game, and is left out.
        candidates = np.bincount(game, minlength=len(games))
        whole = np.flatnonzero(candidates == np.bincount(game_of_each))
        members = np.split(np.argsort(game, kind="stable"), np.cumsum(candidates)[:-1])
        outcomes: list[Outcome] = []
        for cues in text_sides:
            cosines = (images * cues[torch.from_numpy(game)]).sum(dim=1).numpy()
            scores = [_jaccard(cosines[members[g]], right[members[g]]) for g in whole]
            outcomes.append(Associations(candidates[whole], np.array(scores)))
        return outcomes


def _jaccard(cosines: np.ndarray, right: np.ndarray) -> float:
    """Return intersection over union of the right candidates and as many that are nearest to the cue."""
    chosen = np.zeros(len(right), bool)
    chosen[np.argsort(cosines, kind="stable")[len(right) - int(right.sum()) :]] = True
    return float((chosen & right).sum() / (chosen | right).sum())


TASK_RUNS: dict[str, TaskRun] = {
    "classification": _Classification(),
    "multilabel": _Multilabel(),
    "retrieval": _Retrieval(),
    "associations": _Associations(),
}
