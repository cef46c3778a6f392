"""A run's own scores while it goes on: zero-shot, by the fused evaluator, leaving no trace in what is trained."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from soupkit.evaluation import EvaluationOptions, Evaluator, Score, open_tasks
from soupkit.progress import Progress
from soupkit.ranks import Ranks
from soupkit.training.entry import EvaluationPointsEntry
from soupkit.training.model import Start
from soupkit.training.randomness import undisturbed


class EvaluationPoints:
    """Scores the weights of a run on its tasks. A second model of the run's architecture holds them meanwhile."""

    def __init__(
        self, entry: EvaluationPointsEntry, start: Start, ranks: Ranks, device: str, cache: Path | None,
        progress: Progress,
    ) -> None:  # fmt: skip
        """Raises DataError and UsageError for tasks that cannot be opened, StorageError without room for the pixels."""
        tasks = ranks.together(lambda: open_tasks(entry.tasks, data_root=entry.data_root))
        options = EvaluationOptions(device=device, cache=cache, limit=entry.limit)
        with undisturbed():
            self._evaluator = Evaluator(
                start.config, tasks, options, tokenizer_files=start.tokenizer_files, where="evaluate",
                progress=progress, ranks=ranks,
            )  # fmt: skip

    def score(self, model: nn.Module, average: Mapping[str, Tensor] | None) -> dict[str, dict[str, Any]]:
        """Return the scores of the weights by task and, where there is one, of their average as `ema/TASK`.

        All ranks must call it: they share the images, and gather the weights where those are sharded.
        """
        with undisturbed():
            self._fill(model.state_dict())
            found = self._scores("")
            if average is not None:
                self._fill(average)
                found |= self._scores("ema/")
        return found

    @torch.no_grad()
    def _fill(self, weights: Mapping[str, Tensor]) -> None:
        own = self._evaluator.model.state_dict()
        for name, tensor in weights.items():
            own[name].copy_(tensor.full_tensor() if isinstance(tensor, DTensor) else tensor)

    def _scores(self, prefix: str) -> dict[str, dict[str, Any]]:
        return {f"{prefix}{s.task}:{s.split}": _fields(s) for s in self._evaluator.score()}

    def close(self) -> None:
        """Remove what is temporary."""
        self._evaluator.close()


def _fields(score: Score) -> dict[str, Any]:
    fields = asdict(score)
    return {k: fields[k] for k in ("metric", "value", "n", "low", "high", "metrics")}


def score_text(scores: Mapping[str, Mapping[str, Any]]) -> str:
    """Return scores as one line for people."""
    return ", ".join(
        f"{name} {s['metric']} {100 * s['value']:.1f} % ({100 * s['low']:.1f} to {100 * s['high']:.1f})"
        for name, s in scores.items()
    )
