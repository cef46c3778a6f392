"""Whether two searches are one: what decides their outcomes is compared, as documents and journals hold it."""

from typing import Any

from soupkit.search.options import same_options


def different_parts(one: Any, other: dict[str, Any]) -> list[str]:
    """Return the parts of `other`, a `subject()`, that `one` has not."""
    if not isinstance(one, dict):
        return list(other)
    return [
        part
        for part, value in other.items()
        if not (same_options(one.get(part), value) if part == "options" else one.get(part) == value)
    ]
