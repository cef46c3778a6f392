"""Several runs from one entry: the variants of a sweep, or settings drawn at random.

Random search as for model soups (Wortsman et al. 2022, https://arxiv.org/abs/2203.05482): the ingredients are what it
finds, all of them. A value depends on the sweep's seed, its run's number and its setting's name alone: a larger count
or one more setting changes no run that was there before.
"""

import math
import re
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from soupkit.errors import UsageError
from soupkit.schema import Entry
from soupkit.training.order import seed_of

MOST_RUNS = 10_000  # of one sweep
_NAME = re.compile(r"[\w-]{1,100}")
_DRAWS = ("uniform", "log_uniform", "int_uniform", "choice")


class SweepEntry(Entry):
    """Either `variants`, a map from names to settings or a list of settings, or `count` runs with values from `draw`.

    `draw` maps settings (`lr`, `augmentation.scale`) to one of `{uniform: [low, high]}`, `{log_uniform: [low, high]}`,
    `{int_uniform: [low, high]}` and `{choice: [...]}`, all bounds included, whose members may be such draws again.
    Every run of a random sweep has a seed of its own unless `seed` is drawn too.
    """

    variants: dict[str, dict[str, Any]] | list[dict[str, Any]] | None = None
    count: Annotated[int, Field(ge=1, le=MOST_RUNS)] | None = None
    seed: int = 0
    draw: dict[str, dict[str, Any]] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> "SweepEntry":
        if (self.variants is None) == (self.draw is None) or (self.count is None) != (self.draw is None):
            raise ValueError("give either variants, or count and draw")
        if self.variants is not None and not self.variants:
            raise ValueError("has no variant")
        if isinstance(self.variants, dict):
            for name in self.variants:
                if not _NAME.fullmatch(name):
                    raise ValueError(f"{name!r} is no name for a run: letters, digits, '_', '-'")
        for key, draw in (self.draw or {}).items():
            _check(key, draw)
        return self

    def runs(self, seed: int) -> list[tuple[str, dict[str, Any]]]:
        """Return what to append to the name of each run, and the settings that it changes. `seed` is the entry's."""
        if self.draw is not None:
            assert self.count is not None
            members: list[dict[str, Any]] = [
                {
                    "seed": seed + number,
                    **{key: _drawn(draw, seed_of("sweep", self.seed, number, key)) for key, draw in self.draw.items()},
                }
                for number in range(1, self.count + 1)
            ]
        elif isinstance(self.variants, dict):
            return list(self.variants.items())
        else:
            members = list(self.variants or ())
        return [(f"{number:02d}", changes) for number, changes in enumerate(members, 1)]


def changed(fields: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return `fields` with `changes`, whose keys may reach inside (`augmentation.scale`); a key with dots that is there
    (as those of a sweep's `draw`) is meant as a whole. Raises UsageError."""
    result = dict(fields)
    for key, value in changes.items():
        target, rest = result, key
        while "." in rest and rest not in target and not (_is_draws(target) and rest.partition(".")[0] not in target):
            part, _, rest = rest.partition(".")
            inner = target.get(part) or {}
            if not isinstance(inner, dict):
                raise UsageError(f"{part} is no map, so {key} cannot be set", key, f"set {part} as a whole")
            target[part] = dict(inner)
            target = target[part]
        target[rest] = value
    return result


def _is_draws(fields: dict[str, Any]) -> bool:
    """Whether a map is the `draw` of a sweep, whose keys are settings with their dots."""
    return bool(fields) and all(_is_draw(value) for value in fields.values())


def _is_draw(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and next(iter(value)) in _DRAWS


def _check(key: str, draw: Any) -> None:
    if not _is_draw(draw):
        raise ValueError(f"{key}: give one of {', '.join(_DRAWS)}")
    ((kind, values),) = draw.items()
    if kind == "choice":
        if not isinstance(values, list) or not values:
            raise ValueError(f"{key}: choice is a list")
        for value in values:
            if _is_draw(value):
                _check(key, value)
        return
    low, high = _bounds(key, values)
    if not low <= high or (kind == "log_uniform" and low <= 0):
        bound = " and above 0" if kind == "log_uniform" else ""
        raise ValueError(f"{key}: {kind} needs two numbers, the lower one first{bound}")
    if kind == "int_uniform" and not (low.is_integer() and high.is_integer() and max(-low, high) < 2**62):
        raise ValueError(f"{key}: int_uniform needs whole numbers, below 2^62")


def _bounds(key: str, values: Any) -> tuple[float, float]:
    """Return two bounds as numbers; YAML takes 1e-6 for a text."""
    if not isinstance(values, list) or len(values) != 2:
        raise ValueError(f"{key}: give two bounds")
    try:
        low, high = (float(v) for v in values)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{key}: the bounds should be numbers") from None
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{key}: the bounds should be finite")
    return low, high


def _drawn(draw: dict[str, Any], seed: int) -> Any:
    ((kind, values),) = draw.items()
    rng = np.random.default_rng(seed)
    if kind == "choice":
        return _chosen(values, rng, seed)
    low, high = _bounds("", values)
    if kind == "int_uniform":
        return int(rng.integers(int(low), int(high), endpoint=True))
    if kind == "log_uniform":
        value = math.exp(rng.uniform(math.log(low), math.log(high)))
    else:
        value = rng.uniform(low, high)
    return min(max(float(f"{value:.4g}"), low), high)  # four digits, which people can read


def _chosen(values: Sequence[Any], rng: np.random.Generator, seed: int) -> Any:
    value = values[int(rng.integers(len(values)))]
    return _drawn(value, seed_of(seed, "chosen")) if _is_draw(value) else value
