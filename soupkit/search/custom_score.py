"""A score of the user's own: what it is asked by, what it answers, and how answers are read."""

import json
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xxhash

from soupkit.errors import SoupkitError, UsageError
from soupkit.evaluation.outcomes import Hits
from soupkit.files import parse_json, read_text

MODEL, SEED = "{model}", "{seed}"  # what stands in a command for a soup's directory, and for the search's seed
_SHOWN = 120  # characters of an answer that an error shows
_ALIKE = 1e-6  # a value so near to the share of hits is that share


class ScoreError(SoupkitError):
    """A score of the user's own failed, or its answer is none."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a score said of a soup: `value`, and where it told them the `hits` of each image (bool [N]) and further
    named numbers."""

    value: float
    hits: np.ndarray | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_share_of_hits(self) -> bool:
        """Whether the value is that of the hits, so that ties are ties and intervals are known."""
        return self.hits is not None and abs(float(self.hits.mean()) - self.value) < _ALIKE

    def to_json(self) -> str:
        """Return the answer as a line of JSON."""
        hits = None if self.hits is None else "".join("1" if hit else "0" for hit in self.hits)
        return json.dumps({"value": self.value, "hits": hits, "metrics": dict(self.metrics)})


@dataclass(frozen=True, slots=True)
class CustomScore:
    """A score to search by.

    `asks` is a command for the shell in which `{model}` stands for a soup's directory, or a function of one argument:
    the directory as a `Path`, or, where its annotation says so, the weights as a `Mapping[str, Tensor]`, or the
    `nn.Module` that `build()` made. A second argument `images` has it asked about some images alone: it is given their
    numbers (int64 [b], None for all) and returns their hits. Higher is better unless `minimize`. `files` belong to the
    score: when one changes, it is another score. A command that takes longer than `timeout` seconds is stopped; one
    that failed is asked `retries` more times. Beside tasks the score counts `weight` times.
    """

    asks: Any
    minimize: bool = False
    files: tuple[Path, ...] = ()
    timeout: float | None = None
    retries: int = 1
    weight: float = 1.0
    build: Any = None

    @property
    def is_command(self) -> bool:
        """Whether it is a command for the shell."""
        return isinstance(self.asks, str)

    @property
    def name(self) -> str:
        """The command, or the function's name."""
        return self.asks if self.is_command else getattr(self.asks, "__qualname__", type(self.asks).__qualname__)

    def check(self) -> None:
        """Raise UsageError for what cannot be asked."""
        if self.is_command and MODEL not in self.asks:
            raise UsageError("does not say where the model goes", "--score", "for example 'python evaluate.py {model}'")
        if not self.is_command and not callable(self.asks):
            raise UsageError(f"{self.asks!r:.60} is no function and no command", "score", "give one of the two")
        if self.timeout is not None and not self.timeout > 0:
            raise UsageError(f"{self.timeout} is no time", "--score-timeout", "give seconds, for example 3600")
        if self.retries < 0:
            raise UsageError(f"{self.retries} is no number of times", "--score-retries", "0 asks once")
        if not math.isfinite(self.weight) or self.weight <= 0:
            raise UsageError(f"{self.weight} is no weight", "--score-weight", "above 0; --minimize turns the score")
        for path in self.files:
            if not path.is_file():
                raise UsageError("is no file", f"--score-file {path}", "name what the score is computed with")

    def described(self, seed: int) -> dict[str, Any]:
        """Return what the score is, so that another one is recognised: its words, its files' contents, the seed."""
        files = [[path.name, f"xxh3:{xxhash.xxh3_128_hexdigest(path.read_bytes())}"] for path in self.files]
        said = self.name if self.is_command else f"{getattr(self.asks, '__module__', '')}.{self.name}"
        return {"asks": said, "minimize": self.minimize, "files": files, "seed": seed, "weight": self.weight}


class Asker(Protocol):
    """Asks the score about the soup that was last shown to it; `by_images` is whether it can be asked about some images
    alone."""

    by_images: bool

    def ask(self, name: str) -> Answer:
        """Return the answer; `name` says what was asked about, for logs and errors. Raises ScoreError."""

    def ask_about(self, name: str, images: np.ndarray) -> np.ndarray:
        """Return the hits on `images` (int64 [b], of those that the whole answer counts), bool [b]. Raises
        ScoreError."""


def read_answer(text: str, where: str) -> Answer:
    """Return what a command answered: the last line of its output is a number, or JSON with `value`, `hits`, `metrics`,
    which may also be spread over the last lines, from one that begins with a brace (as timm's validate.py prints it).

    Raises ScoreError.
    """
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise ScoreError("answered nothing", where, "the last line of its output should be a number or JSON")
    last = lines[-1].strip()
    if last == "}":
        begins = max((i for i, line in enumerate(lines) if line.startswith("{")), default=len(lines) - 1)
        last = "\n".join(lines[begins:])
    try:
        data: Any = float(last)
    except ValueError:
        try:
            data = parse_json(last)
        except ValueError:
            data = None
    if data is None or isinstance(data, bool | str | list):
        raise ScoreError(
            f"answered {_cut(last)!r}, which is no number", where,
            'the last line of its output should be a number, or {"value": 0.8}',
        )  # fmt: skip
    return answer_of(data, where)


def answer_of(data: Any, where: str) -> Answer:
    """Return `data`, what a function returned or a command's JSON holds, as an answer.

    A number is the value; hits are an array of 0 and 1, or `Hits`, whose share is the value; a mapping holds `value`,
    `hits` and `metrics`, or named numbers, whose mean is the value. Raises ScoreError.
    """
    if isinstance(data, Answer):
        return data
    if isinstance(data, Hits):
        data = {"hits": data.top1}
    if isinstance(data, Mapping):
        return _of_mapping(data, where)
    if (not isinstance(data, str) and getattr(data, "ndim", 0) == 1) or isinstance(data, list | tuple):
        return _of_mapping({"hits": data}, where)
    return Answer(_number(data, where, "value"))


def _of_mapping(data: Mapping[str, Any], where: str) -> Answer:
    if "value" not in data and "hits" not in data:
        named = {str(name): _number(value, where, str(name)) for name, value in data.items()}
        if not named:
            raise ScoreError("answered an empty map", where, 'it should hold "value", or named numbers')
        return Answer(sum(named.values()) / len(named), None, named)
    hits = _hits(data["hits"], where) if data.get("hits") is not None else None
    value = _number(data["value"], where, "value") if "value" in data else float(hits.mean()) if hits is not None else 0
    metrics = data.get("metrics") or {}
    if not isinstance(metrics, Mapping):
        raise ScoreError(f"answered {_cut(repr(metrics))} as metrics", where, "they are a map of names to numbers")
    return Answer(value, hits, {str(name): _number(number, where, str(name)) for name, number in metrics.items()})


def _number(value: Any, where: str, name: str) -> float:
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()  # a number of numpy's or torch's
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ScoreError(
            f"answered {_cut(repr(value))} as {name}, which is no finite number", where,
            'it should be a number; of several that are named, "value" is the one that counts: {"value": 0.8}',
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


def same_answer(one: Answer, other: Answer) -> bool:
    """Whether two answers are one."""
    hits = (one.hits is None and other.hits is None) or (
        one.hits is not None and other.hits is not None and np.array_equal(one.hits, other.hits)
    )
    return hits and math.isclose(one.value, other.value, rel_tol=1e-9, abs_tol=1e-12)


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def read_kept(path: Path) -> Answer | None:
    """Return the answer that was kept at `path`; None where there is none."""
    try:
        return answer_of(parse_json(read_text(path)), str(path))
    except (OSError, ValueError, ScoreError):
        return None
