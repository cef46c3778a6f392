"""JSON that others may have written: bounded, and safe to show."""

import json
import math
import re
from typing import Any, NoReturn

from soupkit.errors import DataError
from soupkit.files import nested_too_deeply
from soupkit.text import visible_in

_LARGEST = 1 << 63  # of whole numbers: floats are made of them, and arrays
_AGAIN = "make it again, or take it away"


def decode(text: str, where: object, first_line: int = 1) -> Any:
    """Return the JSON value of `text`, which begins on `first_line` of `where`, with control characters as escapes.

    Raises DataError, with the line where there is one, for text that is no JSON, for NaN and infinities, which JSON has
    not, for numbers beyond 64 bits, and for what is nested deeper than DEEPEST.
    """

    def refuse(number: str, why: str = "no number") -> NoReturn:
        match = re.search(rf"(?<![\w\"]){re.escape(number)}(?![\w\"])", text)
        line = first_line + text.count("\n", 0, match.start() if match else 0)
        raise DataError(f"holds {number:.40}, which is {why}", f"{where}, line {line}", "leave it out, or null")

    def whole(digits: str) -> int:
        number = int(digits)
        return number if abs(number) <= _LARGEST else refuse(digits, "too large")

    def fraction(digits: str) -> float:
        number = float(digits)
        return number if math.isfinite(number) else refuse(digits, "too large")

    try:
        value = json.loads(text, parse_constant=refuse, parse_int=whole, parse_float=fraction)
    except json.JSONDecodeError as error:
        line = f"{where}, line {first_line + error.lineno - 1}"
        raise DataError(f"is not valid JSON: {error.msg}", line, _AGAIN) from error
    except ValueError as error:  # an integer of thousands of digits
        raise DataError(f"is not valid JSON: {error}", where, _AGAIN) from error
    except RecursionError as error:
        raise DataError("is nested too deeply", where, _AGAIN) from error
    if nested_too_deeply(value):
        raise DataError("is nested too deeply", where, _AGAIN)
    return visible_in(value)
