"""The options of every command that scores models: declared once, and made into what the evaluator takes."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soupkit.cli.options import (
    BatchSize,
    Cache,
    DataRoot,
    Device,
    Limit,
    Model,
    NoCache,
    Precision,
    Preprocess,
    SkipCorrupt,
)

if TYPE_CHECKING:
    from soupkit.evaluation import EvaluationOptions


@dataclass(frozen=True, slots=True)
class Scoring:
    """Where the data of named tasks lie, which model bare weights are of and how its images are prepared, and how to
    evaluate."""

    data_root: Path | None
    model: str | None
    preprocess: Path | None
    evaluation: "EvaluationOptions"


def scores(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command` the options of `_scoring` in place of its parameter `scoring`, which holds what they make.

    Typer reads a command's options from its signature, so the new function shows them in its own.
    """
    shared = inspect.signature(_scoring).parameters

    @wraps(command)
    def run(**arguments: Any) -> None:
        command(scoring=_scoring(**{name: arguments.pop(name) for name in shared}), **arguments)

    shown: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        shown += shared.values() if parameter.name == "scoring" else [parameter]
    # By keyword alone, so that those without a default may stand anywhere.
    signature = inspect.Signature([p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in shown])
    run.__signature__ = signature  # type: ignore[attr-defined]
    return run


def _scoring(
    data_root: DataRoot = None,
    model: Model = None,
    preprocess: Preprocess = None,
    batch_size: BatchSize = None,
    device: Device = "auto",
    precision: Precision = None,
    cache: Cache = None,
    no_cache: NoCache = False,
    limit: Limit = None,
    skip_corrupt: SkipCorrupt = False,
) -> Scoring:
    from soupkit.evaluation import EvaluationOptions

    evaluation = EvaluationOptions(
        device=device,
        precision=precision,
        batch_size=batch_size,
        cache=cache_directory(cache, no_cache),
        limit=limit,
        skip_corrupt=skip_corrupt,
    )
    return Scoring(data_root, model, preprocess, evaluation)


def cache_directory(cache: Path | None, no_cache: bool) -> Path | None:
    """Return where the cache is to be, None for nowhere. Raises UsageError when both options are given."""
    from soupkit.errors import UsageError
    from soupkit.evaluation import default_cache

    if cache is not None and no_cache:
        raise UsageError("say the opposite of each other", "--cache and --no-cache", "give one of them")
    return None if no_cache else cache or default_cache()
