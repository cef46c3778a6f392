"""JSON that others may have written: bounded, and safe to show."""

import json
import re
from typing import Any, NoReturn

from soupkit.errors import DataError
from soupkit.text import visible_in

_DEEPEST = 200  # levels of nesting; soupkit's own documents have six
_AGAIN = "make it again, or take it away"


def decode(text: str, where: object, first_line: int = 1) -> Any:
    """Return the JSON value of `text`, which begins on `first_line` of `where`, with control characters as escapes.

    Raises DataError, with the line where there is one, for text that is no JSON, for NaN and infinities, which JSON has
    not, and for what is nested deeper than 200 levels.
    """

    def refuse(constant: str) -> NoReturn:
        match = re.search(rf"(?<![\w\"]){constant}(?![\w\"])", text)
        line = first_line + text.count("\n", 0, match.start() if match else 0)
        raise DataError(f"holds {constant}, which is no number", f"{where}, line {line}", "leave it out, or null")

    try:
        value = json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        line = f"{where}, line {first_line + error.lineno - 1}"
        raise DataError(f"is not valid JSON: {error.msg}", line, _AGAIN) from error
    except ValueError as error:  # an integer of thousands of digits
        raise DataError(f"is not valid JSON: {error}", where, _AGAIN) from error
    except RecursionError as error:
        raise DataError("is nested too deeply", where, _AGAIN) from error
    if _depth(value) > _DEEPEST:
        raise DataError("is nested too deeply", where, _AGAIN)
    return visible_in(value)


def _depth(value: Any) -> int:
    """Return how deeply a value is nested, up to one more than the deepest that is taken."""
    depth, level = 0, [value]
    while level and depth <= _DEEPEST:
        depth += 1
        containers = [v for v in level if isinstance(v, dict | list)]
        level = [inner for v in containers for inner in (v.values() if isinstance(v, dict) else v)]
    return depth
