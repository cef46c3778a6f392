"""The keywords that functions take beside their own: the fields of the option classes, for type checkers and notebooks.

A type checker knows keywords by a TypedDict that is written out, and so they are written here a second time; a test
holds each against the class, and against the options of the strategies, that it stands for.
"""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict, TypeVar, get_type_hints

Function = TypeVar("Function", bound=Callable[..., Any])


class RunKeywords(TypedDict, total=False):
    """The fields of `RunOptions`."""

    device: str
    threads: int | None
    slab_bytes: int
    fresh: bool
    dry_run: bool
    sha256: bool


class EvaluationKeywords(TypedDict, total=False):
    """The fields of `EvaluationOptions`."""

    device: str
    precision: str | None
    batch_size: int | None
    cache: str | Path | None
    scores: bool
    limit: int | None
    skip_corrupt: bool
    compile: bool


class DecidingKeywords(TypedDict, total=False):
    """The fields of `SearchOptions` but the strategy's name, and the options of soupkit's own strategies."""

    stopping: str | None
    error_rate: float
    accept: str
    seed: int
    keep_going: bool
    least_cosine: float | None
    metric: str | None
    orders: int
    proxy: float
    budget: int
    blocks: str | Sequence[str]
    learned_per: str
    epochs: int
    learning_rate: float
    learned_batch: int
    correlation: float
    methods: str | Sequence[str]
    tune: int


class SearchKeywords(DecidingKeywords, EvaluationKeywords, total=False):
    """What a search takes beside its tasks or its score."""

    base: str | Path | None
    minimize: bool
    score_files: Sequence[str | Path]
    score_timeout: float | None
    score_retries: int
    score_weight: float
    score_key: str | None
    build: Callable[[], Any] | None
    data_root: str | Path | None
    model: str | None
    preprocess: str | Path | None
    builder: str | None
    label_map: str | Path | None
    dry_run: bool
    fresh: bool
    picture: Callable[[dict[str, Any], Path], None] | None


class TrainKeywords(TypedDict, total=False):
    """The fields of `TrainOptions`."""

    device: str
    workers: int | None
    threads: int | None
    cache: str | Path | None
    fresh: bool
    dry_run: bool
    cores: int | None


class PushKeywords(TypedDict, total=False):
    """The fields of `PushOptions`."""

    private: bool
    revision: str | None
    create_pr: bool
    tag: str | None
    license: str | None
    message: str | None
    scores: str | Path | None
    figures: str | Path | None
    folder: str | Path | None
    dry_run: bool


class _Unsaid:
    """The default of a keyword in a signature: that of the option's class."""

    def __repr__(self) -> str:
        return "..."


def takes(keywords: type) -> Callable[[Function], Function]:
    """Return a decorator that puts the names of `keywords` in the place of `**options` in a function's signature, which
    is what `help` shows and a notebook completes."""

    def with_signature(function: Function) -> Function:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        named = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=_Unsaid(), annotation=kind)
            for name, kind in get_type_hints(keywords).items()
        ]
        function.__signature__ = signature.replace(parameters=[*own, *named])  # type: ignore[attr-defined]
        return function

    return with_signature
