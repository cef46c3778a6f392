"""soupkit turns several fine-tuned CLIP checkpoints into one better model.

The public names are loaded when they are first used, so that `import soupkit` costs nothing.

>>> import soupkit
>>> soupkit.__version__.count(".")
2
>>> "merge" in soupkit.__all__
True
"""

from soupkit.version import __version__

TYPE_CHECKING = False  # the one of `typing`, whose import takes longer than all of this one

_PUBLIC = {
    "merge": "soupkit.api.making",
    "search": "soupkit.api.making",
    "interpolate": "soupkit.api.making",
    "train": "soupkit.api.making",
    "run_recipe": "soupkit.api.making",
    "compare": "soupkit.api.measuring",
    "evaluate": "soupkit.api.measuring",
    "classify": "soupkit.api.measuring",
    "report": "soupkit.api.publishing",
    "publish": "soupkit.api.publishing",
    "greedy_search": "soupkit.search.run_search",
    "open_checkpoint": "soupkit.checkpoint",
    "Evaluator": "soupkit.evaluation",
    "EvaluationOptions": "soupkit.evaluation",
    "PushOptions": "soupkit.publishing.hub.push",
    "RunOptions": "soupkit.merging",
    "SearchOptions": "soupkit.search.options",
    "TrainOptions": "soupkit.training",
    "SoupkitError": "soupkit.errors",
}

__all__ = [
    "EvaluationOptions",
    "Evaluator",
    "PushOptions",
    "RunOptions",
    "SearchOptions",
    "SoupkitError",
    "TrainOptions",
    "__version__",
    "classify",
    "compare",
    "evaluate",
    "greedy_search",
    "interpolate",
    "merge",
    "open_checkpoint",
    "publish",
    "report",
    "run_recipe",
    "search",
    "train",
]

if TYPE_CHECKING:
    from soupkit.api.making import interpolate, merge, run_recipe, search, train
    from soupkit.api.measuring import classify, compare, evaluate
    from soupkit.api.publishing import publish, report
    from soupkit.checkpoint import open_checkpoint
    from soupkit.errors import SoupkitError
    from soupkit.evaluation import EvaluationOptions, Evaluator
    from soupkit.merging import RunOptions
    from soupkit.publishing.hub.push import PushOptions
    from soupkit.search.options import SearchOptions
    from soupkit.search.run_search import greedy_search
    from soupkit.training import TrainOptions


def __getattr__(name: str) -> object:
    if name in _PUBLIC:
        from importlib import import_module

        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'soupkit' has no attribute {name!r}")
