"""A model becomes scores: data sets, the zero-shot classifier, the fused pass, metrics.

Names are loaded when first used: models need torch, the table of metrics does not.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_NAMES = {
    "Evaluation": "soupkit.evaluation.run_evaluation",
    "EvaluationOptions": "soupkit.evaluation.options",
    "Evaluator": "soupkit.evaluation.evaluator",
    "Pair": "soupkit.evaluation.task",
    "Score": "soupkit.evaluation.task",
    "Task": "soupkit.evaluation.task",
    "default_cache": "soupkit.evaluation.options",
    "evaluate": "soupkit.evaluation.run_evaluation",
    "open_tasks": "soupkit.evaluation.tasks",
}

__all__ = [
    "Evaluation",
    "EvaluationOptions",
    "Evaluator",
    "Pair",
    "Score",
    "Task",
    "default_cache",
    "evaluate",
    "open_tasks",
]

if TYPE_CHECKING:
    from soupkit.evaluation.evaluator import Evaluator
    from soupkit.evaluation.options import EvaluationOptions, default_cache
    from soupkit.evaluation.run_evaluation import Evaluation, evaluate
    from soupkit.evaluation.task import Pair, Score, Task
    from soupkit.evaluation.tasks import open_tasks


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'soupkit.evaluation' has no attribute {name!r}")
