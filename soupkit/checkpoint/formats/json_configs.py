"""Whether two JSON configs of one library say the same: what trains or describes a model does not count."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

Differences = dict[str, tuple[Any, Any]]


def json_differences(
    a: dict[str, Any],
    b: dict[str, Any],
    *,
    ignored: tuple[str, ...],
    written_out: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> Differences:
    """Return the dotted keys in which two configs differ, with both values (None: not there).

    Keys of which the last word is described by one of the patterns `ignored` do not count. Where the two differ,
    `written_out` adds the library's defaults to both, and they are compared again.
    """
    differences = _compare(a, b, ignored)
    if differences and written_out is not None:
        return _compare(written_out(a), written_out(b), ignored)
    return differences


def _compare(a: dict[str, Any], b: dict[str, Any], ignored: tuple[str, ...]) -> Differences:
    flat_a, flat_b = _flatten(a, ignored), _flatten(b, ignored)
    keys = [*flat_a, *(key for key in flat_b if key not in flat_a)]
    return {key: (flat_a.get(key), flat_b.get(key)) for key in keys if flat_a.get(key) != flat_b.get(key)}


def _flatten(config: dict[str, Any], ignored: tuple[str, ...]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    waiting: list[tuple[str, Any]] = [("", config)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, dict):
            for key, inner in value.items():
                if not any(fnmatchcase(str(key), pattern) for pattern in ignored):
                    waiting.append((f"{path}.{key}" if path else key, inner))
        else:
            flat[path] = value
    return flat
