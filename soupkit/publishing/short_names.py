"""Short names of models, for tables and figures."""

from collections.abc import Iterable, Sequence
from pathlib import Path


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


def end_names(places: Iterable[str]) -> dict[str, str]:
    """Return for each place as little of its end as tells it apart from the others: `a` for `/data/runs/a`."""
    parts = {place: tuple(p for p in Path(place).parts if p not in ("/", "..")) for place in places}
    names = {}
    for place, own in parts.items():
        others = [p for p in parts.values() if p != own]
        n = next((n for n in range(1, len(own)) if all(p[-n:] != own[-n:] for p in others)), len(own))
        names[place] = "/".join(own[-n:]) or Path(place).resolve().name
    return names
