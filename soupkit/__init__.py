"""soupkit turns several fine-tuned CLIP checkpoints into one better model.

The public names are loaded when they are first used, so that `import soupkit` costs nothing.
"""

from soupkit.version import __version__

TYPE_CHECKING = False  # the one of `typing`, whose import takes longer than all of this one

_PUBLIC = {
    "open_checkpoint": "soupkit.checkpoint",
    "compare": "soupkit.checkpoint",
    "merge": "soupkit.merging",
    "evaluate": "soupkit.evaluation",
    "Evaluator": "soupkit.evaluation",
    "search": "soupkit.search.run_search",
    "greedy_search": "soupkit.search.run_search",
    "train": "soupkit.training",
    "publish": "soupkit.publishing.hub.push",
    "run_recipe": "soupkit.recipe.run",
    "SoupkitError": "soupkit.errors",
}

__all__ = [
    "Evaluator",
    "SoupkitError",
    "__version__",
    "compare",
    "evaluate",
    "greedy_search",
    "merge",
    "open_checkpoint",
    "publish",
    "run_recipe",
    "search",
    "train",
]

if TYPE_CHECKING:
    from soupkit.checkpoint import compare, open_checkpoint
    from soupkit.errors import SoupkitError
    from soupkit.evaluation import Evaluator, evaluate
    from soupkit.merging import merge
    from soupkit.publishing.hub.push import publish
    from soupkit.recipe.run import run_recipe
    from soupkit.search import greedy_search, search
    from soupkit.training import train


def __getattr__(name: str) -> object:
    if name in _PUBLIC:
        from importlib import import_module

        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'soupkit' has no attribute {name!r}")
