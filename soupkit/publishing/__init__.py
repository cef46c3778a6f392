"""A soup meets its readers: plots and the report. Names are loaded when first used, for matplotlib takes its time."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "plot_search": "soupkit.publishing.plots",
    "plot_interpolation": "soupkit.publishing.plots",
    "plot_scores": "soupkit.publishing.plots",
    "plot_scatter": "soupkit.publishing.plots",
    "plot_differences": "soupkit.publishing.plots",
}

__all__ = ["plot_differences", "plot_interpolation", "plot_scatter", "plot_scores", "plot_search"]

if TYPE_CHECKING:
    from soupkit.publishing.plots import (
        plot_differences,
        plot_interpolation,
        plot_scatter,
        plot_scores,
        plot_search,
    )


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'soupkit.publishing' has no attribute {name!r}")
