"""Which soup is best: searches over ingredients that score as few images as the decision needs.

Names are loaded when first used: a recipe's schema needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_NAMES = {
    "greedy_search": "soupkit.search.search",
    "SearchResult": "soupkit.search.search",
    "SearchOptions": "soupkit.search.options",
    "Interpolation": "soupkit.search.interpolation",
    "interpolate": "soupkit.search.interpolation",
    "SearchEntry": "soupkit.search.entry",
}

__all__ = ["Interpolation", "SearchEntry", "SearchOptions", "SearchResult", "greedy_search", "interpolate"]

if TYPE_CHECKING:
    from soupkit.search.entry import SearchEntry
    from soupkit.search.interpolation import Interpolation, interpolate
    from soupkit.search.options import SearchOptions
    from soupkit.search.search import SearchResult, greedy_search


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'soupkit.search' has no attribute {name!r}")
