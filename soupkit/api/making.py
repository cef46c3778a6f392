"""Functions that make weights: merge, search, train, run_recipe, and the curve between a base and its fine-tunes."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints, overload

from soupkit.api.arguments import (
    Checkpoints,
    Ref,
    Refs,
    Weights,
    checked,
    checkpoint_list,
    checkpoints,
    optional_references,
    path,
    plain,
    reference,
    watched,
)
from soupkit.api.keywords import EvaluationKeywords, RunKeywords, SearchKeywords, TrainKeywords, takes
from soupkit.api.results import InterpolationResult, MergeResult, RecipeResult, SearchResult, TrainingResult
from soupkit.api.shown import shown_as
from soupkit.errors import UsageError
from soupkit.evaluation import EvaluationOptions
from soupkit.merging import RunOptions
from soupkit.progress import Progress
from soupkit.search.options import SearchOptions
from soupkit.training import TrainEntry, TrainOptions

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Unpack


@overload
def merge(
    ingredients: Checkpoints, output: str | Path, *,
    method: str = ..., weights: Sequence[float] | None = ..., base: "Ref | Weights | None" = ...,
    parameters: Mapping[str, Any] | None = ..., dtype: str | None = ..., model: str | None = ...,
    preprocess: str | Path | None = ..., to: str | None = ..., rank: int | None = ...,
    max_shard_bytes: int | None = ..., allow_nonfinite: bool = ..., options: RunOptions | None = ...,
    progress: bool | Progress | None = ..., **run: "Unpack[RunKeywords]",
) -> MergeResult: ...  # fmt: skip
@overload
def merge(
    ingredients: Checkpoints, output: None = None, *,
    method: str = ..., weights: Sequence[float] | None = ..., base: "Ref | Weights | None" = ...,
    parameters: Mapping[str, Any] | None = ..., dtype: str | None = ..., model: str | None = ...,
    preprocess: str | Path | None = ..., to: str | None = ..., rank: int | None = ...,
    max_shard_bytes: int | None = ..., allow_nonfinite: bool = ..., options: RunOptions | None = ...,
    progress: bool | Progress | None = ..., **run: "Unpack[RunKeywords]",
) -> "dict[str, Tensor]": ...  # fmt: skip
@takes(RunKeywords)
def merge(
    ingredients: Checkpoints,
    output: str | Path | None = None,
    *,
    method: str = "uniform",
    weights: Sequence[float] | None = None,
    base: "Ref | Weights | None" = None,
    parameters: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    model: str | None = None,
    preprocess: str | Path | None = None,
    to: str | None = None,
    rank: int | None = None,
    max_shard_bytes: int | None = None,
    allow_nonfinite: bool = False,
    options: RunOptions | None = None,
    progress: bool | Progress | None = None,
    **run: "Unpack[RunKeywords]",
) -> "MergeResult | dict[str, Tensor]":
    """Merge checkpoints into the directory `output`, which their own library then opens; without one return the soup as
    a state dict. An ingredient is a reference, a state dict or a module.

    Methods and their `parameters` are listed by `soupkit merge --help`. `run` are the fields of `RunOptions` (device,
    threads, fresh, dry_run, ...). Interrupted, the same call goes on. Raises SoupkitError of the kinds that
    `soupkit.merging.merge` explains.

    >>> soup = soupkit.merge(["runs/a", "runs/b"], "soups/uniform")
    >>> soup.status, [ingredient["weight"] for ingredient in soup.ingredients]
    ('written', [0.5, 0.5])
    >>> soupkit.merge(["runs/a", "runs/b"], "soups/two-to-one", weights=[2, 1]).rows()[0]["ref"]
    'runs/a'
    >>> state = soupkit.merge([live_model, live_model.state_dict()])
    >>> sorted(state)
    ['scale']
    """
    from soupkit.merging import merge as run_merge

    result = run_merge(
        checkpoint_list(ingredients, "ingredients"), output, method=method, weights=plain(weights),
        base=None if base is None else checkpoint_list(base, "base")[0],
        parameters=None if parameters is None else {name: plain(value) for name, value in parameters.items()},
        dtype=plain(dtype), model=model, preprocess=preprocess, to=to, rank=rank,
        max_shard_bytes=max_shard_bytes, allow_nonfinite=allow_nonfinite,
        options=options_of(RunOptions, options, run), progress=watched(progress),
    )  # fmt: skip
    return result if isinstance(result, dict) else shown_as(MergeResult, result)


@takes(SearchKeywords)
def search(
    ingredients: Checkpoints,
    output: str | Path,
    *,
    tasks: Refs = (),
    report_tasks: Refs = (),
    score: str | Callable[..., Any] | None = None,
    strategy: str = "greedy",
    options: SearchOptions | None = None,
    evaluation: EvaluationOptions | None = None,
    progress: bool | Progress | None = None,
    **others: "Unpack[SearchKeywords]",
) -> SearchResult:
    """Search for the soup of `ingredients` that is best on `tasks`, or by a `score` of your own; write it to `output`.

    `others` are those of `soupkit.search.search`: the score's (minimize, build), data_root, dry_run, fresh; the fields
    of `SearchOptions` (stopping, accept) and the strategy's own (orders=3, budget=50), or they are `options` together,
    as those of a strategy from another package have to be; and the fields of `EvaluationOptions` (device, limit, ...),
    or they are `evaluation`. `score` is a command with `{model}` in it, or a function of a soup's directory (a
    Path), of its weights (annotated `Mapping[str, Tensor]`) or of the module that `build` makes.

    >>> def shrinks(weights: Mapping[str, Tensor]) -> float:
    ...     return -float(sum(tensor.abs().sum() for tensor in weights.values()))
    >>> found = soupkit.search(["runs/a", "runs/b"], "soups/small", score=shrinks)
    >>> found.document.strategy
    'greedy'
    """
    from soupkit.publishing.reports.plots import plot_search
    from soupkit.search.run_search import search as run

    shared = {field.name for field in fields(EvaluationOptions)}
    scoring: dict[str, Any] = {name: value for name, value in others.items() if name in shared}
    rest: dict[str, Any] = {name: plain(value) for name, value in others.items() if name not in shared}
    if options is not None:
        rest = {**_deciding(options, strategy, rest), **rest}
    else:
        rest["strategy"] = strategy
    with checkpoints(ingredients, "ingredients") as refs:
        result = run(
            refs, output, tasks=optional_references(tasks, "tasks"),
            report_tasks=optional_references(report_tasks, "report_tasks"), score=score,
            evaluation=evaluation_options(evaluation, scoring),
            **{"picture": plot_search, "progress": watched(progress), **rest},
        )  # fmt: skip
    return shown_as(SearchResult, result)


def _shown_by_the_package() -> None:
    """Give the package `soupkit.search`, which is called as this function, its signature: notebooks complete it."""
    package = type(sys.modules["soupkit.search"])
    shown = signature(search)
    own = Parameter("self", Parameter.POSITIONAL_ONLY)
    package.__call__.__signature__ = shown.replace(parameters=[own, *shown.parameters.values()])  # type: ignore[attr-defined]


_shown_by_the_package()


def _deciding(options: SearchOptions, strategy: str, beside: Mapping[str, Any]) -> dict[str, Any]:
    """Return `options` as keywords. Raises UsageError for what is said `beside` them and is one of theirs."""
    from soupkit.search.run_search import search as run

    shared = {field.name: getattr(options, field.name) for field in fields(SearchOptions) if field.name != "own"}
    others = signature(run).parameters.keys() - shared.keys()
    twice = [*(["strategy"] if strategy != "greedy" else []), *(name for name in beside if name not in others)]
    if twice:
        raise UsageError("is said beside the options themselves", ", ".join(twice), "say it in one of the two")
    return {**shared, **options.own}


@takes(EvaluationKeywords)
def interpolate(
    base: "Ref | Weights",
    fine_tuned: Checkpoints,
    *,
    tasks: Refs,
    report_tasks: Refs = (),
    points: int = 11,
    data_root: str | Path | None = None,
    model: str | None = None,
    preprocess: str | Path | None = None,
    evaluation: EvaluationOptions | None = None,
    progress: bool | Progress | None = None,
    **options: "Unpack[EvaluationKeywords]",
) -> InterpolationResult:
    """Score the models between `base` and the mean of the fine-tuned ones (WiSE-FT).

    `tasks` select the best alpha (split `val` unless named), `report_tasks` only report. `options` are the fields of
    `EvaluationOptions` (device, limit, cache, ...).

    >>> curve = soupkit.interpolate("runs/base", "runs/a", tasks="digits", points=3, limit=20)
    >>> [point.alpha for point in curve.document.points]
    [0.0, 0.5, 1.0]
    """
    from soupkit.search.interpolation import interpolate as run

    with checkpoints([base], "base") as (start,), checkpoints(fine_tuned, "fine_tuned") as refs:
        result = run(
            start, refs, tasks=optional_references(tasks, "tasks"),
            report_tasks=optional_references(report_tasks, "report_tasks"), points=checked(points, int, "points"),
            data_root=path(data_root),
            model=model, preprocess=path(preprocess), evaluation=evaluation_options(evaluation, options),
            progress=watched(progress),
        )  # fmt: skip
    return shown_as(InterpolationResult, result)


@takes(TrainKeywords)
def train(
    recipe: str | Path | Mapping[str, Any] | TrainEntry,
    output: str | Path,
    *,
    run: str | None = None,
    settings: Sequence[str] = (),
    options: TrainOptions | None = None,
    progress: bool | Progress | None = None,
    **others: "Unpack[TrainKeywords]",
) -> TrainingResult:
    """Train the runs of a recipe's file, or the one called `run`, below `output`; or one run that `recipe` says itself.

    `settings` are those of `soupkit train --set` ("a.lr=1e-4"); `others` the fields of `TrainOptions` (device,
    workers, fresh, ...). Interrupted, the same call goes on.

    >>> short = ["stage1.samples=160", "stage1.warmup=0"]
    >>> runs = soupkit.train("recipe.yaml", "trained", run="stage1", settings=short, device="cpu", workers=0)
    >>> runs["stage1"].status, runs["stage1"].samples
    ('trained', 160)
    """
    from soupkit.training import train as train_one

    where = {"cache": path(others["cache"])} if "cache" in others else {}
    chosen, watcher = options_of(TrainOptions, options, {**others, **where}), watched(progress)
    if isinstance(recipe, str | Path):
        from soupkit.cli.train import train_runs

        runs = train_runs(Path(recipe), Path(output), run, list(settings), chosen, watcher)
    else:
        entry = recipe if isinstance(recipe, TrainEntry) else dict(recipe)
        runs = {"": train_one(entry, output, options=chosen, progress=watcher)}
    return TrainingResult(runs, Path(output))


def run_recipe(
    recipe: str | Path,
    output: str | Path | None = None,
    *,
    until: str | None = None,
    jobs: int = 1,
    dry_run: bool = False,
    fresh: bool = False,
    training: TrainOptions | None = None,
    evaluation: EvaluationOptions | None = None,
    progress: bool | Progress | None = None,
) -> RecipeResult:
    """Run a recipe's steps (those that `until` needs) into `output`, by default `runs/NAME`.

    A step whose inputs and options have not changed is not done again.

    >>> [step.name for step in soupkit.run_recipe("recipe.yaml", "out", dry_run=True).steps][:2]
    ['train.stage1', 'train.a']
    """
    from soupkit.recipe.run import run_recipe as run

    result = run(
        Path(reference(recipe, "recipe")), path(output), until=until, jobs=jobs, dry_run=dry_run, fresh=fresh,
        training=training, evaluation=evaluation, progress=watched(progress),
    )  # fmt: skip
    return shown_as(RecipeResult, result)


def options_of(kind: type[Any], options: Any, given: Mapping[str, Any]) -> Any:
    """Return `options`, or those that `given` says. Raises UsageError for both at once and for a field there is not."""
    if options is not None and given:
        raise UsageError("is said beside the options themselves", ", ".join(given), "say it in one of the two")
    names = [field.name for field in fields(kind)]
    if unknown := [name for name in given if name not in names]:
        near = get_close_matches(unknown[0], names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the fields of {kind.__name__} are {', '.join(names)}"
        raise UsageError("is no option", ", ".join(unknown), hint)
    hints = get_type_hints(kind)
    return options if options is not None else kind(**{n: checked(v, hints[n], n) for n, v in given.items()})


def evaluation_options(options: EvaluationOptions | None, given: Mapping[str, Any]) -> EvaluationOptions:
    """Return how to evaluate: `options`, or what `given` says, with the user's cache unless it names another."""
    from soupkit.evaluation import default_cache

    if options is None:
        given = {**given, "cache": path(given.get("cache", default_cache()))}
    chosen: EvaluationOptions = options_of(EvaluationOptions, options, given)
    return chosen
