"""A soup meets its readers: figures, the report, the model card and the push.

Names are loaded when first used, for matplotlib takes its time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "plot_search": "soupkit.publishing.reports.plots",
    "plot_interpolation": "soupkit.publishing.reports.plots",
    "plot_scores": "soupkit.publishing.reports.plots",
    "plot_scatter": "soupkit.publishing.reports.plots",
    "plot_differences": "soupkit.publishing.reports.plots",
    "ReportEntry": "soupkit.publishing.entry",
    "make_report": "soupkit.publishing.reports.report",
    "read_results": "soupkit.publishing.reports.report_inputs",
}

__all__ = [
    "ReportEntry",
    "make_report",
    "plot_differences",
    "plot_interpolation",
    "plot_scatter",
    "plot_scores",
    "plot_search",
    "read_results",
]

if TYPE_CHECKING:
    from soupkit.publishing.entry import ReportEntry
    from soupkit.publishing.reports.plots import (
        plot_differences,
        plot_interpolation,
        plot_scatter,
        plot_scores,
        plot_search,
    )
    from soupkit.publishing.reports.report import make_report
    from soupkit.publishing.reports.report_inputs import read_results


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'soupkit.publishing' has no attribute {name!r}")
