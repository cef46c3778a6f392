"""Many checkpoints become one: merge methods, the plan, and the engine that streams it.

Names are loaded when first used: the engine needs torch, a recipe's schema does not.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_NAMES = {
    "merge": "soupkit.merging.run_merge",
    "MergeResult": "soupkit.merging.run_merge",
    "RunOptions": "soupkit.merging.run_merge",
    "SoupEntry": "soupkit.merging.entry",
    "read_mergekit": "soupkit.merging.mergekit_file",
    "read_soup": "soupkit.merging.entry",
}

__all__ = ["MergeResult", "RunOptions", "SoupEntry", "merge", "read_mergekit", "read_soup"]

if TYPE_CHECKING:
    from soupkit.merging.entry import SoupEntry, read_soup
    from soupkit.merging.mergekit_file import read_mergekit
    from soupkit.merging.run_merge import MergeResult, RunOptions, merge


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'soupkit.merging' has no attribute {name!r}")
