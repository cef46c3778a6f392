"""Braces in the names of shards, as bash and users of WebDataset write them: `laion/{00000..00999}.tar`."""

import re
from collections.abc import Iterator

from braceexpand import braceexpand

MOST = 2_000_000  # names of one pattern; 2 billion samples in shards of 10,000 are 200,000
_LENGTH = 4096  # of a pattern, as of a path
_LETTERS = 52
_LETTER_RANGE = re.compile(r"\{[A-Za-z]\.\.[A-Za-z]")
_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)(?:\.\.-?(\d+))?\}")


def expand_braces(pattern: str) -> Iterator[str]:
    """Yield the names that `pattern` stands for. Raises ValueError for braces that do not match, and for a pattern that
    is longer than a path, or stands for more than MOST names: nothing is expanded before they are counted.
    """
    if len(pattern) > _LENGTH:
        raise ValueError(f"the pattern has more than {_LENGTH:,} characters")
    if (most := _at_most(pattern)) > MOST:
        raise ValueError(
            f"it stands for {f'{most:,}' if most < 10**15 else 'endlessly many'} names, more than {MOST:,}"
        )
    try:
        yield from braceexpand(pattern)
    except RecursionError:
        raise ValueError("braces are nested too deeply") from None


def _at_most(pattern: str) -> int:
    """Return a number of names that `pattern` does not exceed: every range and every list counts as a factor."""
    names = 1
    for start, stop, step in _RANGE.findall(pattern):
        if max(map(len, (start, stop, step))) > 18:
            return 10**18
        names *= abs(int(stop) - int(start)) // max(1, int(step or 1)) + 1
    names *= _LETTERS ** len(_LETTER_RANGE.findall(pattern))
    depth, commas = 0, [0]
    for character in _RANGE.sub("", pattern):
        if character == "{":
            commas.append(0)
            depth += 1
        elif character == "}" and depth:
            names *= commas.pop() + 1
            depth -= 1
        elif character == "," and depth:
            commas[-1] += 1
    return names
