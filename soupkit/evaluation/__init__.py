"""A model becomes scores: data sets, the zero-shot classifier, the fused pass, metrics."""

from soupkit.evaluation.evaluate import Evaluation, Pair, evaluate
from soupkit.evaluation.evaluator import EvaluationOptions, Evaluator, default_cache
from soupkit.evaluation.task import Score, Task
from soupkit.evaluation.tasks import open_tasks

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
