"""Parameters of a merge, from how a person writes them to the values that one tensor gets.

A value is a number, a word or true or false, `{gradient: [..]}` over the depth of a tower (with `outside: x` for what
is in none of its blocks), a map from tensor-name patterns to any of these (the first pattern that matches counts), or a
list with one of them per ingredient.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import PurePath
from typing import Any

from soupkit.checkpoint.towers import depths, is_in_block
from soupkit.errors import UsageError
from soupkit.merging.declarations import Parameter, Value
from soupkit.merging.registry import MergeMethod
from soupkit.text import counted

# What one tensor gets: a value, one number or file per ingredient, or None for what is optional and not given.
Resolved = dict[str, Value | tuple[Any, ...] | None]


def resolve(method: MergeMethod, given: Mapping[str, Any], names: Sequence[str], n: int) -> dict[str, Resolved]:
    """Return the parameters that each tensor of `names` gets, for `n` ingredients.

    Raises UsageError for an unknown parameter, a value out of its bounds, a list of the wrong length, a required
    parameter that is missing, a pattern that matches nothing, or weights that sum to zero.
    """
    check_names(method, given)
    _check_patterns(given, names)
    depth = depths(names)
    resolved = {
        name: {
            key: _value(parameter, key, given.get(key), name, depth[name], n)
            for key, parameter in method.parameters.items()
        }
        for name in names
    }
    for name, values in resolved.items():
        if method.check is not None:
            _check(method.check, values, name)
        if isinstance(values.get("lines"), float):
            values["lines"] = float(values["lines"]) * depth[name]
    return resolved


def check_names(method: MergeMethod, given: Mapping[str, Any]) -> None:
    """Raise UsageError, with the nearest name, for a parameter in `given` that `method` does not have."""
    for key in given:
        if key not in method.parameters:
            near = get_close_matches(key, method.parameters, n=1)
            own = ", ".join(method.parameters) or "none"
            hint = f"did you mean {near[0]}?" if near else f"its parameters: {own}"
            raise UsageError(f"method {method.name} has no parameter {key!r}", "--param", hint)


def check_values(method: MergeMethod, given: Mapping[str, Any], n: int) -> None:
    """Check the names and values in `given` as far as that goes without the names of tensors, for `n` ingredients.

    Raises UsageError as `resolve` does; `where` is "parameter NAME".
    """
    check_names(method, given)
    for key, value in given.items():
        by_pattern = isinstance(value, Mapping) and "gradient" not in value
        for one in value.values() if by_pattern else [value]:
            _value(method.parameters[key], key, one, "", 0.0, n)


def _check_patterns(given: Mapping[str, Any], names: Sequence[str]) -> None:
    for key, value in given.items():
        if isinstance(value, Mapping) and "gradient" not in value:
            for pattern in value:
                if not any(fnmatchcase(name, str(pattern)) for name in names):
                    raise UsageError(
                        f"pattern {pattern!r} matches no tensor",
                        f"parameter {key}",
                        "`soupkit inspect --tensors` lists the names",
                    )


def _value(parameter: Parameter, key: str, given: Any, name: str, depth: float, n: int) -> Any:
    """Resolve one value for one tensor; patterns and gradients are peeled off until plain values remain."""
    where = f"parameter {key}"
    if isinstance(given, Mapping):
        if "gradient" in given:
            if parameter.kind is not float:
                raise UsageError("takes no gradient", where, parameter.help)
            outside = given.get("outside") if name and not is_in_block(name) else None
            given = _at_depth(given["gradient"], depth, where) if outside is None else outside
        else:
            given = next((v for pattern, v in given.items() if fnmatchcase(name, str(pattern))), None)
            if given is not None:
                return _value(parameter, key, given, name, depth, n)
    if given is None:
        if parameter.optional:
            return None
        if parameter.default is None:
            raise UsageError("has no value, and there is no default", f"{where}, tensor {name}", parameter.help)
        given = parameter.default
    if parameter.files:
        return _files(given, where, n)
    if isinstance(given, list | tuple):
        if not parameter.per_ingredient:
            raise UsageError(f"takes one value, not {len(given)}", where, parameter.help)
        if len(given) != n:
            raise UsageError(f"has {len(given)} values for {n} ingredients", where, "give one for each, in their order")
        return tuple(_of_one(parameter, key, v, name, depth) for v in given)
    if parameter.per_ingredient:
        return (_number(parameter, given, where),) * n
    return _plain(parameter, given, where)


def _files(given: Any, where: str, n: int) -> tuple[str, ...]:
    """Return a path for each ingredient."""
    paths = given if isinstance(given, list | tuple) else [given]
    if not all(isinstance(path, str | PurePath) for path in paths):
        raise UsageError("names something else than files", where, "give a file for each ingredient, in their order")
    if len(paths) != n:
        what = f"has {counted(len(paths), 'file')} for {n} ingredients"
        raise UsageError(what, where, "give one for each ingredient, in their order")
    return tuple(str(path) for path in paths)


def _of_one(parameter: Parameter, key: str, given: Any, name: str, depth: float) -> float:
    """Resolve the value of one ingredient, which may be a gradient or a map of patterns of its own."""
    if isinstance(given, list | tuple):
        raise UsageError("has a list within its list", f"parameter {key}", "give one value for each ingredient")
    return _value(replace(parameter, per_ingredient=False), key, given, name, depth, 1)


def _at_depth(points: Any, depth: float, where: str) -> float:
    """Interpolate linearly between `points`, spread evenly from depth 0 to 1."""
    if not isinstance(points, list) or not points or not all(isinstance(p, int | float) for p in points):
        raise UsageError(
            "has a gradient that is no list of numbers", where, "write it as {gradient: [0.2, 0.8]}, from first to last"
        )
    position = depth * (len(points) - 1)
    i = min(int(position), len(points) - 2) if len(points) > 1 else 0
    if len(points) == 1:
        return float(points[0])
    return points[i] + (points[i + 1] - points[i]) * (position - i)


def _plain(parameter: Parameter, value: Any, where: str) -> Value:
    """Return one value of the parameter's kind."""
    if parameter.kind is bool:
        if value not in (0, 1):
            raise UsageError(f"{value!r} is neither true nor false", where, parameter.help)
        return bool(value)
    if parameter.kind is str:
        if value not in parameter.choices:
            near = get_close_matches(str(value), parameter.choices, n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(parameter.choices)}"
            raise UsageError(f"{value!r} is none of its choices", where, hint)
        return str(value)
    number = _number(parameter, value, where)
    if parameter.kind is int:
        if number != int(number):
            raise UsageError(f"{value!r} is no whole number", where, parameter.help)
        return int(value)
    return number


def _number(parameter: Parameter, value: Any, where: str) -> float:
    if isinstance(value, bool):
        value = int(value)
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise UsageError(f"{value!r} is not a number", where, parameter.help)
    if parameter.bounds is not None and value not in parameter.bounds:
        raise UsageError(f"{value:g} is not {parameter.bounds}", where, parameter.help)
    return float(value)


def _check(check: Callable[[Mapping[str, Any]], None], values: Resolved, name: str) -> None:
    try:
        check(values)
    except UsageError as error:
        raise UsageError(error.what, f"{error.where}, tensor {name}", error.hint) from error
