"""How every figure looks: two themes, two widths, colours that the colour-blind can tell apart, files by suffix."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soupkit.errors import StorageError, UsageError
from soupkit.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")


@dataclass(frozen=True, slots=True)
class Theme:
    """The colours of a figure. After Okabe and Ito (2008), lightened where the page is dark."""

    page: str
    ink: str
    soft: str
    grid: str
    ingredient: str
    soup: str
    third: str
    fourth: str


LIGHT = Theme("#ffffff", "#1c1b19", "#66635c", "#dedbd3", "#0072b2", "#c8500a", "#007a59", "#8a3ffc")
DARK = Theme("#16171a", "#eceae4", "#a5a29a", "#35373c", "#5cb8f0", "#ff9a5c", "#3ecfa4", "#f0e442")


@dataclass(frozen=True, slots=True)
class Style:
    """Which variant of a figure: its theme, and whether it is for a phone (3.4 inches wide, not 6.8)."""

    theme: Theme = LIGHT
    narrow: bool = False

    @property
    def width(self) -> float:
        """Inches."""
        return 3.4 if self.narrow else 6.8

    @property
    def letters(self) -> int:
        """How many letters of a figure's text fit across it: DejaVu Sans has 8 px a letter at 10 pt and 100 dpi."""
        return 46 if self.narrow else 80


@contextmanager
def canvas(style: Style, height: float) -> Iterator[tuple["Figure", Any]]:
    """Give a figure of `height` inches and its axes, without matplotlib's global state of figures."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    theme = style.theme
    settings: dict[Any, Any] = {  # matplotlib types the keys as literals, all three hundred
        "font.size": 8.5 if style.narrow else 10,
        "axes.edgecolor": theme.soft,
        "axes.labelcolor": theme.ink,
        "axes.labelsize": "medium",
        "text.color": theme.ink,
        "xtick.color": theme.soft,
        "ytick.color": theme.soft,
        "xtick.labelcolor": theme.ink,
        "ytick.labelcolor": theme.ink,
        "grid.color": theme.grid,
        "grid.linewidth": 0.6,
        "axes.linewidth": 0.8,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "legend.fontsize": "small",
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(style.width, height), layout="constrained", facecolor=theme.page)
        axes = figure.add_subplot(facecolor="none")
        yield figure, axes


def check_format(path: Path) -> None:
    """Raise UsageError for a suffix that no figure is written with."""
    if path.suffix not in FORMATS:
        raise UsageError(f"has no suffix of {', '.join(FORMATS)}", path, "give the file one of them")


def save(figure: "Figure", path: Path) -> None:
    """Write `figure` to `path` in the format of its suffix, whole or not at all. The same figure gives the same bytes.

    Raises UsageError for another suffix, StorageError when it cannot be written.
    """
    check_format(path)
    if not path.parent.is_dir():
        raise StorageError("cannot be written: its directory does not exist", path, "make the directory first")
    write_whole(path, rendered(figure, path.suffix[1:]))


def rendered(figure: "Figure", kind: str) -> bytes:
    """Return the bytes of `figure` as `png`, `svg` or `pdf`, without a date."""
    import matplotlib as mpl

    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
    buffer = BytesIO()
    with mpl.rc_context({"svg.hashsalt": "soupkit", "svg.fonttype": "path"}):
        figure.savefig(buffer, format=kind, dpi=200, metadata=metadata)
    return buffer.getvalue()
