"""A run's own scores while it goes on: zero-shot or by its head, by the fused evaluator, leaving no trace in what is
trained."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from soupkit.checkpoint.architecture import CLASS_NAMES
from soupkit.evaluation import EvaluationOptions, Evaluator, Score, open_tasks
from soupkit.evaluation.heads import model_soups_config
from soupkit.training.context import RunContext
from soupkit.training.entry import EvaluationPointsEntry
from soupkit.training.randomness import undisturbed


class EvaluationPoints:
    """Scores the weights of a run on its tasks. A second model of the run's architecture holds them meanwhile."""

    def __init__(self, entry: EvaluationPointsEntry, context: RunContext, model: nn.Module) -> None:
        """Raises DataError and UsageError for tasks that cannot be opened, StorageError without room for the pixels."""
        ranks, start = context.ranks, context.start
        tasks = ranks.together(open_tasks, entry.tasks, data_root=entry.data_root)
        options = EvaluationOptions(device=context.options.device, cache=context.options.cache, limit=entry.limit)
        with undisturbed():
            self._evaluator = Evaluator(
                self._config(context, model), tasks, options, tokenizer_files=start.tokenizer_files, where="evaluate",
                progress=context.progress, ranks=ranks,
            )  # fmt: skip

    @staticmethod
    def _config(context: RunContext, model: nn.Module) -> dict[str, Any]:
        """Return what the second model is built from: the CLIP of the run, or the classifier `model`."""
        config = context.start.config
        if not context.entry.classifies:
            return config
        return model_soups_config(
            config, model.state_dict(), len(config[CLASS_NAMES]), config["model_cfg"]["embed_dim"]
        )

    def score(self, model: nn.Module, average: Mapping[str, Tensor] | None) -> dict[str, dict[str, Any]]:
        """Return the scores of the weights by task and, where there is one, of their average as `ema/TASK`.

        All ranks must call it: they share the images, and gather the weights where those are sharded.
        """
        with undisturbed():
            self._fill(model.state_dict())
            scores = self._scores("")
            if average is not None:
                self._fill(average)
                scores |= self._scores("ema/")
        return scores

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
