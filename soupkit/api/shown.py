"""How a result is shown: as a dictionary, a frame, a text, and in a notebook as a table with its picture."""

from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from soupkit.errors import UsageError
from soupkit.text import visible

if TYPE_CHECKING:
    import pandas

Row = dict[str, Any]
_MOST_ROWS = 40  # of a text or of a page; a frame has all of them


class Shown:
    """What every result can do. A result says its `headline`, its `rows`, and perhaps a picture.

    >>> result = soupkit.compare(["runs/a", "runs/b"])
    >>> result.to_dict()["refs"], list(result.to_frame().columns)
    (['runs/a', 'runs/b'], ['ref', 'model', 'tensors', 'config'])
    >>> "<table>" in result._repr_html_()
    True
    """

    __slots__ = ()

    def headline(self) -> str:
        """Return what came out, in one line."""
        raise NotImplementedError

    def rows(self) -> list[Row]:
        """Return what `to_frame` has as rows, each by the names of its columns."""
        raise NotImplementedError

    def tables(self) -> Iterable[str]:
        """Return what a notebook shows as tables, in HTML."""
        return [html_table(self.rows())]

    def pictures(self) -> Iterable[bytes]:
        """Return pictures as SVG."""
        return ()

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON would hold it."""
        plain: dict[str, Any] = as_json(self)
        return plain

    def to_frame(self) -> "pandas.DataFrame":
        """Return the rows as a pandas DataFrame. Raises UsageError where pandas is not installed."""
        try:
            import pandas
        except ImportError as error:
            raise UsageError("needs pandas, which is not installed", "to_frame", "pip install pandas") from error
        return pandas.DataFrame(self.rows())

    def __repr__(self) -> str:
        return "\n".join([visible(self.headline()), *text_table(self.rows())])

    def _repr_html_(self) -> str:
        head = f"<p>{escape(visible(self.headline()))}</p>"
        drawn = [
            f'<img alt="" style="max-width:42rem" src="data:image/svg+xml;base64,{b64encode(picture).decode()}">'
            for picture in self.pictures()
        ]
        return f"<div>{head}{''.join(self.tables())}{''.join(drawn)}</div>"


def as_json(value: Any) -> Any:
    """Return `value` as JSON would hold it: paths as texts, tuples as lists, dataclasses and documents as objects."""
    if hasattr(value, "model_dump"):
        return value.to_dict() if hasattr(value, "to_dict") else value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [as_json(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


def text_table(rows: Sequence[Row]) -> list[str]:
    """Return rows as lines of text, columns below their names."""
    if not rows:
        return []
    names = list(rows[0])
    cells = [names, *([written(row.get(name)) for name in names] for row in rows[:_MOST_ROWS])]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return [*lines, f"and {len(rows) - _MOST_ROWS:,} more"] if len(rows) > _MOST_ROWS else lines


def html_table(rows: Sequence[Row]) -> str:
    """Return rows as a table of a page."""
    if not rows:
        return ""
    names = list(rows[0])
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(written(row.get(name)))}</td>" for name in names) + "</tr>"
        for row in rows[:_MOST_ROWS]
    )
    more = f"<p>and {len(rows) - _MOST_ROWS:,} more</p>" if len(rows) > _MOST_ROWS else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def written(value: Any) -> str:
    """Return a cell as text."""
    if value is None:
        return ""
    return f"{value:.5g}" if isinstance(value, float) else visible(str(value))


Result = TypeVar("Result", bound=Shown)


def shown_as(kind: Callable[..., Result], result: Any) -> Result:
    """Return `result`, a dataclass of a floor below, as the class of it that a notebook shows."""
    return kind(**{field.name: getattr(result, field.name) for field in fields(result)})
