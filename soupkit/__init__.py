"""soupkit turns several fine-tuned CLIP checkpoints into one better model.

The public names are loaded when they are first used, so that `import soupkit` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "open_checkpoint": "soupkit.checkpoint",
    "compare": "soupkit.checkpoint",
    "merge": "soupkit.merging",
    "SoupkitError": "soupkit.errors",
}

__all__ = ["SoupkitError", "__version__", "compare", "merge", "open_checkpoint"]

if TYPE_CHECKING:
    from soupkit.checkpoint import compare, open_checkpoint
    from soupkit.errors import SoupkitError
    from soupkit.merging import merge


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'soupkit' has no attribute {name!r}")
