"""Braces in the names of shards, as bash and users of WebDataset write them: `laion/{00000..00999}.tar`."""

import re
from collections.abc import Iterator
from string import ascii_letters

from braceexpand import braceexpand

MOST = 2_000_000  # names of one pattern; 2 billion samples in shards of 10,000 are 200,000
_LENGTH = 4096  # of a pattern, as of a path
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.-?(\d+))?")
_LETTER_RANGE = re.compile(r"([A-Za-z])\.\.([A-Za-z])(?:\.\.-?(\d+))?")


def expand_braces(pattern: str) -> Iterator[str]:
    """Yield the names that `pattern` stands for. Raises ValueError for braces that do not match, and for a pattern that
    is longer than a path, or stands for more than MOST names: nothing is expanded before they are counted.
    """
    if len(pattern) > _LENGTH:
        raise ValueError(f"the pattern has more than {_LENGTH:,} characters")
    if (names := _count(pattern)) > MOST:
        raise ValueError(
            f"it stands for {f'{names:,}' if names < 10**15 else 'endlessly many'} names, more than {MOST:,}"
        )
    try:
        yield from braceexpand(pattern)
    except RecursionError:
        raise ValueError("braces are nested too deeply") from None


def _count(pattern: str) -> int:
    """Return how many names `pattern` stands for, where its braces match, without making one of them."""
    outer: list[tuple[int, int, int]] = []  # of each open brace: where it is, and the two counts of what is around it
    listed, names = 0, 1  # names of the alternatives before the last comma, and of the one that is being read
    position = 0
    while position < len(pattern):
        character = pattern[position]
        if character == "\\":
            position += 1
        elif character == "{":
            outer.append((position, listed, names))
            listed, names = 0, 1
        elif character == "," and outer:
            listed, names = listed + names, 1
        elif character == "}" and outer:
            inside = listed + names
            start, listed, names = outer.pop()
            names *= _length_of_range(pattern[start + 1 : position]) or inside
        position += 1
    return names


def _length_of_range(text: str) -> int | None:
    """Return the length of the range that stands between two braces; None for what is no range."""
    if match := _RANGE.fullmatch(text):
        start, stop = int(match[1]), int(match[2])
    elif match := _LETTER_RANGE.fullmatch(text):
        start, stop = ascii_letters.index(match[1].swapcase()), ascii_letters.index(match[2].swapcase())
    else:
        return None
    return abs(stop - start) // max(1, int(match[3] or 1)) + 1
