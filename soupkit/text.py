"""Text that others wrote (names of tensors, files and models, documents), made safe to show."""

import re
from typing import Any

# What moves a cursor, colours a terminal, ends a line, or lets text be read in another order than it is written in:
# C0 and C1 controls, marks of direction, invisible characters, half of a surrogate pair, and tags. Joiners stay, since
# words of Persian and Hindi are written with them.
_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e0fff]"
)


def visible(text: str, keep: str = "") -> str:
    r"""Return `text` with its control characters as escapes that can be seen, but for those in `keep`.

    >>> print(visible("red\x1b[31m"))
    red\x1b[31m
    """
    return _CONTROLS.sub(lambda m: m[0] if m[0] in keep else m[0].encode("unicode_escape").decode(), text)


def counted(n: int, noun: str) -> str:
    """Return `n` with the noun that it counts, in its plural where there are several.

    >>> counted(1, "task"), counted(2982, "image")
    ('1 task', '2,982 images')
    """
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def visible_in(value: Any) -> Any:
    """Return a JSON value whose texts, keys included, are `visible`."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {visible(key) if isinstance(key, str) else key: visible_in(inner) for key, inner in value.items()}
    return [visible_in(inner) for inner in value] if isinstance(value, list | tuple) else value
