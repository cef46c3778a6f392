"""What a score of the user's own answers: a number, hits, named numbers, and how they are read from what it printed."""

import ast
import json
import math
import numbers
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from soupkit.errors import SoupkitError
from soupkit.evaluation.outcomes import Hits
from soupkit.files import nested_too_deeply, parse_json, read_text

_SHOWN = 120  # characters of an answer that an error shows
_ALIKE = 1e-6  # a value so near to the share of hits is that share
_LISTED = 8  # names that an error lists
_BEGINNINGS = 100  # lines from which JSON that is spread over several may begin, tried from the last one up
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_OBJECT = re.compile(r"[A-Za-z_][\w.]*\(.*\)", re.DOTALL)
_HINT = 'the last line of its output should be a number, or {"value": 0.8}'


class ScoreError(SoupkitError):
    """A score of the user's own failed, or its answer is none."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a score said of a soup: `value`, and where it told them the `hits` of each image (bool [N]) and further
    named numbers. `is_mean` is whether the value is the mean of these, because none was said to count."""

    value: float
    hits: np.ndarray | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    is_mean: bool = field(default=False, compare=False)

    @property
    def is_share_of_hits(self) -> bool:
        """Whether the value is that of the hits, so that ties are ties and intervals are known."""
        return self.hits is not None and abs(float(self.hits.mean()) - self.value) < _ALIKE

    def to_json(self) -> str:
        """Return the answer as a line of JSON."""
        hits = None if self.hits is None else "".join("1" if hit else "0" for hit in self.hits)
        return json.dumps({"value": self.value, "hits": hits, "metrics": dict(self.metrics)})


def read_answer(text: str, where: str, key: str | None = None) -> Answer:
    """Return what a command answered: the last line of its output is a number, or JSON with `value`, `hits`, `metrics`,
    which may also be spread over the last lines (as timm's validate.py prints it), or what Python prints of such a
    dict. `key` names the number that counts, as in `answer_of`.

    Raises ScoreError.
    """
    lines = [_COLOUR.sub("", line).rstrip() for line in text.removeprefix("\ufeff").splitlines() if line.strip()]
    if not lines:
        raise ScoreError("answered nothing", where, "the last line of its output should be a number or JSON")
    last = lines[-1].strip()
    data = float(last) if _NUMBER.fullmatch(last) else _mapping(lines)
    if data is None:
        raise ScoreError(f"answered {_cut(last)!r}, which is no number", where, _hint_for(last))
    return answer_of(data, where, key)


def _mapping(lines: list[str]) -> Mapping[str, Any] | None:
    """Return the object that the last lines hold, in JSON or as Python prints a dict; None where they hold none."""
    if not lines[-1].endswith("}"):
        return None
    beginnings = [i for i, line in enumerate(lines) if line.lstrip().startswith("{")]
    for i in reversed(beginnings[-_BEGINNINGS:]):
        text = "\n".join(lines[i:])
        for parse in (parse_json, _of_python):
            try:
                data = parse(text)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
            if isinstance(data, Mapping):
                return data
    return None


def _of_python(text: str) -> Any:
    value = ast.literal_eval(text.strip())
    if nested_too_deeply(value):
        raise ValueError("it is nested too deeply")
    return value


def _hint_for(last: str) -> str:
    if last.endswith("%"):
        return f"{_HINT}: without the percent sign"
    if _OBJECT.search(last):  # np.float64(0.8), tensor(0.8130), and a dict that holds them
        return f"{_HINT}: print(float(x)) prints a number of numpy's or torch's as one"
    if re.fullmatch(r"[+-]?[0-9]+,[0-9]+", last):
        return f"{_HINT}: with a point, and without a comma"
    return _HINT


def answer_of(data: Any, where: str, key: str | None = None) -> Answer:
    """Return `data`, what a function returned or a command's JSON holds, as an answer.

    A number is the value; hits are an array of 0 and 1, or `Hits`, whose share is the value; a mapping holds `value`,
    `hits` and `metrics`, or named numbers, whose mean is the value. `key` names the number that is the value instead;
    one that lies deeper is named by all names on the way, with slashes between. Raises ScoreError.
    """
    if isinstance(data, Answer):
        return data
    if isinstance(data, Hits):
        data = {"hits": data.top1}
    if isinstance(data, Mapping):
        return _of_mapping(data, where) if key is None else _of_key(data, key, where)
    if key is not None:
        what = f"answered {_cut(repr(data))}, and no {key!r}"
        raise ScoreError(what, where, f'--score-key is of answers with names: {{"{key}": 0.8}}')
    if (not isinstance(data, str) and getattr(data, "ndim", 0) == 1) or isinstance(data, list | tuple):
        return _of_mapping({"hits": data}, where)
    return Answer(_number(data, where, "value"))


def _of_mapping(data: Mapping[str, Any], where: str) -> Answer:
    if "value" not in data and "hits" not in data:
        named = {str(name): _number(value, where, str(name)) for name, value in data.items()}
        if not named:
            raise ScoreError("answered an empty map", where, 'it should hold "value", or named numbers')
        return Answer(sum(named.values()) / len(named), None, named, is_mean=len(named) > 1)
    hits = _hits(data["hits"], where) if data.get("hits") is not None else None
    value = _number(data["value"], where, "value") if "value" in data else float(hits.mean()) if hits is not None else 0
    metrics = data.get("metrics") or {}
    if not isinstance(metrics, Mapping):
        raise ScoreError(f"answered {_cut(repr(metrics))} as metrics", where, "they are a map of names to numbers")
    return Answer(value, hits, {str(name): _number(number, where, str(name)) for name, number in metrics.items()})


def _of_key(data: Mapping[str, Any], key: str, where: str) -> Answer:
    """Return the number called `key` as the value; beside it the hits, and what else has a name and is a number."""
    found = _deep(data, key)
    if found is None:
        names = [name for name, _ in _numbers(data)]
        listed = ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
        raise ScoreError(f"answered no {key!r}", where, f"--score-key names one of its numbers: {listed or 'none'}")
    hits = _hits(data["hits"], where) if data.get("hits") is not None else None
    metrics = data.get("metrics")
    named = _numbers(metrics if isinstance(metrics, Mapping) else {k: v for k, v in data.items() if k != "hits"})
    others = {name: float(value) for name, value in named if math.isfinite(value)}
    return Answer(_number(found[0], where, key), hits, others)


def _deep(data: Mapping[str, Any], key: str) -> tuple[Any] | None:
    """Return what is called `key` in `data`, or in a mapping within it; a name may have slashes of its own."""
    if key in data:
        return (data[key],)
    for i, letter in enumerate(key):
        inner = data.get(key[:i]) if letter == "/" else None
        if isinstance(inner, Mapping) and (found := _deep(inner, key[i + 1 :])) is not None:
            return found
    return None


def _numbers(data: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """Return the names and values of all numbers in `data`, those of inner mappings with the names on the way."""
    found: list[tuple[str, Any]] = []
    for name, value in data.items():
        value = _plain(value)
        if isinstance(value, Mapping):
            found += _numbers(value, f"{before}{name}/")
        elif not isinstance(value, bool) and isinstance(value, numbers.Real):
            found.append((f"{before}{name}", value))
    return found


def _plain(value: Any) -> Any:
    """Return a number of numpy's or torch's as Python's; anything else as it is."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value


def _number(value: Any, where: str, name: str) -> float:
    value = _plain(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ScoreError(
            f"answered {_cut(repr(value))} as {name}, which is no finite number", where,
            'it should be a number; of several that are named, "value" is the one that counts, {"value": 0.8}, '
            "or the one that --score-key names",
        )  # fmt: skip
    return float(value)


def _hits(data: Any, where: str) -> np.ndarray:
    if isinstance(data, str):
        data = [int(c) for c in data] if set(data) <= {"0", "1"} else None
    try:
        values = np.asarray(data.cpu() if hasattr(data, "cpu") else data)
        good = values.ndim == 1 and len(values) > 0 and bool(np.isin(values, (0, 1)).all())
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ScoreError("answered hits that are no list of 0 and 1", where, "one for each image, in a fixed order")
    return values.astype(bool)


def read_hits(data: Any, n: int, where: str) -> np.ndarray:
    """Return `data`, what a function returned when it was asked about `n` images, as hits, bool [n].

    Raises ScoreError.
    """
    hits = answer_of(data, where).hits
    if hits is None or len(hits) != n:
        got = "no hits" if hits is None else f"{len(hits)} hits"
        raise ScoreError(f"answered with {got}, asked about {n} images", where, "return one for each, in their order")
    return hits


def check_alike(answer: Answer, first: Answer, where: str) -> None:
    """Raise ScoreError where an answer has not the form of the first one."""
    lengths = [None if a.hits is None else len(a.hits) for a in (first, answer)]
    if lengths[0] != lengths[1]:
        counts = ["no hits" if n is None else f"{n} hits" for n in lengths]
        raise ScoreError(
            f"answered with {counts[1]}, and with {counts[0]} before", where, "each answer should have the same images"
        )
    if first.is_share_of_hits and not answer.is_share_of_hits and answer.hits is not None:
        raise ScoreError(
            f"answered {answer.value:g}, and hits whose share is {answer.hits.mean():g}", where,
            "before, the value was the share of hits: print one of the two",
        )  # fmt: skip


def check_same(one: Answer, other: Answer, where: str) -> None:
    """Raise ScoreError where a score that was asked twice about one soup gave two answers."""
    hits = (one.hits is None and other.hits is None) or (
        one.hits is not None and other.hits is not None and np.array_equal(one.hits, other.hits)
    )
    if hits and _close(one.value, other.value):
        return
    what = f"answered {one.value:g}, and {other.value:g} when asked again"
    changed = [n for n, v in one.metrics.items() if n not in other.metrics or not _close(v, other.metrics[n])]
    if one.is_mean and len(changed) < len(one.metrics):  # such as the seconds that it took
        what = f"{what}: the mean of {len(one.metrics)} numbers, of which {', '.join(changed[:_LISTED])} differ"
        raise ScoreError(what, where, "say which one counts with --score-key")
    hint = "make it answer the same for the same model: SOUPKIT_SEED or {seed} in the command is the seed"
    raise ScoreError(what, where, hint)


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def read_kept(path: Path) -> Answer | None:
    """Return the answer that was kept at `path`; None where there is none."""
    try:
        return answer_of(parse_json(read_text(path)), str(path))
    except (OSError, ValueError, ScoreError):
        return None
