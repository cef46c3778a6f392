"""Which soup is best: searches over ingredients that score as few images as the decision needs.

`soupkit.search` is this package and, called, `search` itself: `soupkit.search(refs, "soups/best", tasks="digits")`.
Names are loaded when first used: a recipe's schema needs no torch.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

_NAMES = {
    "search": "soupkit.search.run_search",
    "greedy_search": "soupkit.search.run_search",
    "SearchResult": "soupkit.search.run_search",
    "SearchPlan": "soupkit.search.prepared",
    "SearchOptions": "soupkit.search.options",
    "SearchDocument": "soupkit.search.document",
    "Interpolation": "soupkit.search.interpolation",
    "interpolate": "soupkit.search.interpolation",
    "SearchEntry": "soupkit.search.entry",
    "STRATEGIES": "soupkit.search.strategies.table",
    "Strategy": "soupkit.search.strategies.table",
    "StrategyOption": "soupkit.search.strategies.table",
}

__all__ = [
    "STRATEGIES",
    "Interpolation",
    "SearchDocument",
    "SearchEntry",
    "SearchOptions",
    "SearchPlan",
    "SearchResult",
    "Strategy",
    "StrategyOption",
    "greedy_search",
    "interpolate",
    "search",
]

if TYPE_CHECKING:
    from soupkit.search.document import SearchDocument
    from soupkit.search.entry import SearchEntry
    from soupkit.search.interpolation import Interpolation, interpolate
    from soupkit.search.options import SearchOptions
    from soupkit.search.prepared import SearchPlan
    from soupkit.search.run_search import SearchResult, greedy_search, search
    from soupkit.search.strategies.table import STRATEGIES, Strategy, StrategyOption


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'soupkit.search' has no attribute {name!r}")


class _Callable(ModuleType):
    """A package that is called as the function of its name: `soupkit.search` is both."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return import_module("soupkit").__getattr__("search")(*arguments, **options)


sys.modules[__name__].__class__ = _Callable
