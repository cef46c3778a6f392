"""Short names of models, for tables and figures: as short as they must be, and never two alike."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

_ELIDED = "…"
_NARROWEST = 4  # characters; below them a number says more than a name


class FittedNames(NamedTuple):
    """What each reference is called, and, where only a number fits, which number stands for which reference."""

    names: dict[str, str]
    legend: dict[str, str]


def fit_names(refs: Sequence[str], width: int) -> FittedNames:
    """Return names of at most `width` characters that tell the references apart.

    The directories that all share go first, then the middle of what they share, then the middle of what they do not;
    where that leaves two alike, they are numbered.
    """
    shown = short_names(refs)
    names = list(shown.values())
    for fitted in (names, _without_the_shared(names, width), [_elided(name, width) for name in names]):
        if len(set(fitted)) == len(set(names)) and all(len(name) <= max(width, _NARROWEST) for name in fitted):
            return FittedNames(dict(zip(shown, fitted, strict=True)), {})
    numbers = {ref: f"#{i}" for i, ref in enumerate(shown, 1)}
    return FittedNames(numbers, {number: ref for ref, number in numbers.items()})


def _without_the_shared(names: Sequence[str], width: int) -> list[str]:
    """Return names in which what all of them share, whole words of it, is elided as far as it has to be."""
    start = _shared_words(names)
    rest = [name[len(start) :] for name in names]
    end = _shared_words([name[::-1] for name in rest])[::-1]
    own = [name[: len(name) - len(end)] for name in rest]
    longest = max(map(len, own), default=0)
    spare = max(0, width - longest)
    kept_end = end if len(end) <= spare // 2 else _elided_start(end, spare // 3)
    kept_start = _elided_end(start, spare - len(kept_end))
    return [kept_start + name + kept_end for name in own]


def _shared_words(names: Sequence[str]) -> str:
    """Return what all names begin with, up to the end of its last whole word."""
    shared = 0
    while all(len(name) > shared and name[shared] == names[0][shared] for name in names):
        shared += 1
    match = re.match(r".*[/_\-.=:, ]", names[0][:shared]) if names else None
    return match[0] if match else ""


def _elided_end(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    return text[: width - 1] + _ELIDED if width > 0 else ""


def _elided_start(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    return _ELIDED + text[len(text) - width + 1 :] if width > 1 else ""


def _elided(name: str, width: int) -> str:
    """Return `name` without its middle, where it is longer than `width`."""
    if len(name) <= width or width < _NARROWEST:
        return name
    head = (width - 1) // 2
    return name[:head] + _ELIDED + name[len(name) - (width - 1 - head) :]


def short_names(refs: Sequence[str]) -> dict[str, str]:
    """Return each reference without the directories that all of them share; absolute paths by their ends alone."""
    ends = end_names(refs)
    if len(refs) < 2:
        return {ref: ends[ref] if Path(ref).is_absolute() else ref for ref in refs}
    parts = [Path(ref).parts for ref in refs]
    shared = 0
    while all(len(p) > shared + 1 for p in parts) and len({p[shared] for p in parts}) == 1:
        shared += 1
    rest = {ref: Path(*p[shared:]) for ref, p in zip(refs, parts, strict=True)}
    return {ref: ends[ref] if path.is_absolute() else str(path) for ref, path in rest.items()}


def end_names(paths: Iterable[str]) -> dict[str, str]:
    """Return for each path as little of its end as tells it apart from the others: `a` for `/data/runs/a`."""
    parts = {path: tuple(p for p in Path(path).parts if p not in ("/", "..")) for path in paths}
    names = {}
    for path, own in parts.items():
        others = [p for p in parts.values() if p != own]
        n = next((n for n in range(1, len(own)) if all(p[-n:] != own[-n:] for p in others)), len(own))
        names[path] = "/".join(own[-n:]) or Path(path).resolve().name
    return names
