"""What a method's parameter is, and how the signature of a function declares its own."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

Value = float | int | bool | str


@dataclass(frozen=True, slots=True)
class Bounds:
    """The least and the largest value of a number; with `above` the least itself is none."""

    low: float
    high: float
    above: bool = False

    def __contains__(self, value: float) -> bool:
        return (self.low < value if self.above else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        if self.above:
            return f"above {self.low:g} and at most {self.high:g}"
        return f"between {self.low:g} and {self.high:g}"


@dataclass(frozen=True, slots=True)
class Each:
    """The default of a parameter with one number per ingredient."""

    value: float


def each(value: float) -> Any:
    """Return the default `value` for each ingredient: `scale: Annotated[Sequence[float], Bounds(0, 1)] = each(0.4)`."""
    return Each(value)


@dataclass(frozen=True, slots=True)
class StatisticsFiles:
    """Marks a parameter, Sequence[str], that names a file of statistics of this `kind` for each ingredient."""

    kind: str


@dataclass(frozen=True, slots=True)
class OfTheModel:
    """Marks an argument that is known of the whole model before its tensors are merged.

    `survey(model)` makes it; `model` is a `soupkit.merging.survey.Survey`, which offers passes over all tensors.
    """

    survey: Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a method.

    `kind` is float, int, bool or str; `default` None says that it must be given, unless it is `optional`; `bounds` are
    a number's, `choices` those of a str; with `per_ingredient` the method gets a tuple of floats, one for each
    ingredient. `files` is the kind of statistics in files that are named, one for each ingredient, "" where none are.
    """

    kind: type[Value]
    default: Value | None
    help: str
    bounds: Bounds | None = None
    choices: tuple[str, ...] = ()
    per_ingredient: bool = False
    optional: bool = False
    files: str = ""

    @property
    def shown_default(self) -> str:
        """The default as a person writes it; empty where there is none."""
        if self.default is None:
            return ""
        return str(self.default).lower() if self.kind is bool else f"{self.default}"


def declared_by(function: Callable[..., Any]) -> tuple[dict[str, Parameter], dict[str, Callable[..., Any]]]:
    """Return the parameters that `function`'s signature declares, and the surveys of what is known of the model."""
    parameters: dict[str, Parameter] = {}
    surveys: dict[str, Callable[..., Any]] = {}
    for declared in inspect.signature(function).parameters.values():
        if declared.kind is not declared.KEYWORD_ONLY:
            continue
        annotation: Any = declared.annotation
        if isinstance(annotation, str):  # the module's annotations are texts: `from __future__ import annotations`
            annotation = eval(annotation, getattr(function, "__globals__", {}))
        kind, *extras = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
        if survey := next((e for e in extras if isinstance(e, OfTheModel)), None):
            surveys[declared.name] = survey.survey
        else:
            parameters[declared.name] = _parameter(function, declared, kind, extras)
    return parameters, surveys


def _parameter(
    function: Callable[..., Any], declared: inspect.Parameter, kind: Any, extras: Sequence[Any]
) -> Parameter:
    bounds = next((e for e in extras if isinstance(e, Bounds)), None)
    text = next((e for e in extras if isinstance(e, str)), "")
    default = None if declared.default is declared.empty else declared.default
    if get_origin(kind) is Literal:
        return Parameter(str, default, text, choices=get_args(kind))
    if get_origin(kind) is Sequence and get_args(kind) == (float,):
        value = default.value if isinstance(default, Each) else default
        return Parameter(float, value, text, bounds, per_ingredient=True)
    if files := next((e for e in extras if isinstance(e, StatisticsFiles)), None):
        return Parameter(str, default, text, per_ingredient=True, files=files.kind)
    if kind is bool or (kind in (int, float) and bounds is not None):
        return Parameter(kind, default, text, bounds)
    raise TypeError(
        f"parameter {declared.name} of {function.__name__} is no Annotated[float, Bounds(low, high), ...], "
        "nor int, bool, Literal, Sequence[float] or files"
    )
