"""How a merge method is declared: one typed function, whose signature holds its parameters, and a decorator that says
what it needs. Reading the table imports no torch.

    @merge_method(paper=SOUPS, base="needed")
    def shrunk(ops, ingredients, base, *, alpha: Annotated[float, Bounds(0, 1), "0: the base"] = 0.5):
        \"\"\"base + alpha (mean - base).\"\"\"
        return ops.mean(ingredients).sub_(base).mul_(alpha).add_(base)
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

from soupkit.extensions import Table

if TYPE_CHECKING:
    from torch import Tensor

# The modules of soupkit.merging.methods, in the table's order.
FAMILIES = ("averages", "spheres", "task_vectors", "trimmed", "dropped", "matrices", "with_data")

Scope = Literal["elementwise", "tensor"]
Base = Literal["none", "optional", "needed"]
MergeFunction = Callable[..., "Tensor"]
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


@dataclass(frozen=True, slots=True)
class Paper:
    """Where a method is published, by which a card cites it. `authors` have their full names, in order."""

    authors: tuple[str, ...]
    title: str
    year: int
    url: str

    @property
    def citation(self) -> str:
        """The work in a few words, such as "Wortsman et al. 2022"."""
        last = [author.split()[-1] for author in self.authors]
        names = f"{last[0]} et al." if len(last) > 2 else " and ".join(last)
        return f"{names} {self.year}"

    @property
    def bibtex(self) -> str:
        """The work as an entry of a BibTeX file."""
        key = self.authors[0].split()[-1].lower() + str(self.year) + self.title.split()[0].strip(":,").lower()
        lines = {"title": f"{{{self.title}}}", "author": " and ".join(self.authors), "year": self.year, "url": self.url}
        fields = "".join(f"  {name} = {{{value}}},\n" for name, value in lines.items())
        return f"@misc{{{key},\n{fields}}}\n"


@dataclass(frozen=True, slots=True)
class MergeMethod:
    """A row of METHODS.

    `function(ops, ingredients, base, **parameters)` gets tensors in their stored dtypes and returns one in the
    accumulator's dtype. With scope "elementwise" these are any run of elements, 1-D; with "tensor", or where a
    parameter has the value that `whole_when` names, one whole tensor in its shape. `ingredients` is the least and the
    largest number of them. `surveys` are those of the arguments that are known of the whole model. A method that
    `selects` may leave an ingredient's entry out, so that an infinite one would leave no trace. `holds` is how many
    copies of a whole tensor, in the accumulator's dtype, it holds at most, and `holds_each` how many for each
    ingredient. `exact` says that its bytes are the same on every machine: always, never, or where parameters have the
    values that it names. `check` raises UsageError for parameters of a tensor that make no sense together.
    """

    name: str
    function: MergeFunction
    scope: Scope
    base: Base
    ingredients: tuple[int, int | None]
    parameters: Mapping[str, Parameter]
    paper: Paper
    surveys: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    whole_when: Mapping[str, Value] = field(default_factory=dict)
    selects: bool = False
    holds: int = 1
    holds_each: int = 0
    exact: bool | Mapping[str, Value] = True
    check: Callable[[Mapping[str, Any]], None] | None = None

    def is_exact(self, parameters: Mapping[str, Any]) -> bool:
        """Whether its bytes are the same on every machine, with these `parameters`, of which others are at default."""
        if isinstance(self.exact, bool):
            return self.exact
        return all(parameters.get(n, self.parameters[n].default) == value for n, value in self.exact.items())

    def sees_whole(self, parameters: Mapping[str, Any]) -> bool:
        """Whether it has to see a whole tensor, with these `parameters`."""
        return self.scope == "tensor" or any(parameters.get(k) == v for k, v in self.whole_when.items())

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (self.function.__doc__ or "").strip().splitlines()[0].rstrip(".")

    @property
    def files(self) -> dict[str, str]:
        """The parameters that name files of statistics, and of which kind those are."""
        return {name: parameter.files for name, parameter in self.parameters.items() if parameter.files}

    @property
    def needs_base(self) -> bool:
        """Whether there is no merge without a base."""
        return self.base == "needed"

    @property
    def citation(self) -> str:
        """The paper in a few words, such as "Wortsman et al. 2022"."""
        return self.paper.citation


METHODS: Table[MergeMethod] = Table(
    "merge method",
    MergeMethod,
    group="soupkit.methods",
    option="--method",
    modules=tuple(f"soupkit.merging.methods.{family}" for family in FAMILIES),
)
# What every method with a base takes: how much of its task vector counts, by depth (LiNeS, Wang et al. 2024,
# https://arxiv.org/abs/2410.17146).
LAYER_RULE = {
    "lines": Parameter(
        float,
        None,
        "scale the merged task vector by lines_alpha + lines x depth in its tower",
        Bounds(0, 10),
        optional=True,
    ),
    "lines_alpha": Parameter(
        float, None, "what lines begins with; unless given, by the norms of the model", Bounds(0, 10), optional=True
    ),
}


def merge_method(
    *,
    paper: Paper,
    scope: Scope = "elementwise",
    base: Base = "none",
    ingredients: tuple[int, int | None] = (2, None),
    name: str | None = None,
    whole_when: Mapping[str, Value] | None = None,
    selects: bool = False,
    holds: int = 1,
    holds_each: int = 0,
    exact: bool | Mapping[str, Value] = True,
    check: Callable[[Mapping[str, Any]], None] | None = None,
) -> Callable[[MergeFunction], MergeFunction]:
    """Add a function to METHODS, under its own name unless `name` is given.

    Its keyword-only arguments are the method's parameters: `Annotated[type, Bounds(low, high), "help"] = default`,
    where the type is float, int, bool, a Literal of texts, Sequence[float] (one per ingredient; `each(default)`), or
    Sequence[str] with StatisticsFiles(kind).
    Raises UsageError for a name that is taken, TypeError for a parameter that is not declared so.

    >>> @merge_method(paper=Paper(("A. Author",), "A midpoint", 2026, "https://example.org"), ingredients=(2, 2))
    ... def midpoint_of_two(ops, ingredients, base, *, share: Annotated[float, Bounds(0, 1), "of the first"] = 0.5):
    ...     "The mean of two, by share."
    ...     return ops.mean(ingredients)
    >>> METHODS["midpoint_of_two"].parameters["share"].default
    0.5
    """

    def register(function: MergeFunction) -> MergeFunction:
        parameters, surveys = declared_by(function)
        if base != "none":
            parameters.update(LAYER_RULE)
        row = MergeMethod(
            name or function.__name__,
            function,
            scope,
            base,
            ingredients,
            MappingProxyType(parameters),
            paper,
            MappingProxyType(surveys),
            MappingProxyType(dict(whole_when or {})),
            selects,
            holds,
            holds_each,
            exact,
            check,
        )
        METHODS.add(row, module=function.__module__)
        return function

    return register


def declared_by(function: MergeFunction) -> tuple[dict[str, Parameter], dict[str, Callable[..., Any]]]:
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


def _parameter(function: MergeFunction, declared: inspect.Parameter, kind: Any, extras: Sequence[Any]) -> Parameter:
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


def as_markdown() -> str:
    """Return the table of methods for the docs: what each does, where it is published, its parameters' defaults."""
    lines = ["| method | soup | needs | parameters |", "|---|---|---|---|"]
    for method in METHODS.values():
        own = {name: p for name, p in method.parameters.items() if name not in LAYER_RULE}
        parameters = ", ".join(f"`{name}={p.shown_default}`" for name, p in own.items())
        needs = {"needed": "base", "optional": "base, or none", "none": ""}[method.base]
        source = f"[{method.citation}]({method.paper.url})"
        lines.append(f"| `{method.name}` | {method.summary} ({source}) | {needs} | {parameters} |")
    return "\n".join(lines) + "\n"


def as_help() -> str:
    """Return the methods and their parameters for a command's help."""
    width = max(map(len, METHODS))
    lines = []
    for method in METHODS.values():
        base = {"needed": "; needs --base", "optional": "; takes --base", "none": ""}[method.base]
        lines.append(f"    {method.name:<{width}}  {method.summary}{base}")
        for name, p in method.parameters.items():
            if name in LAYER_RULE:
                continue
            default = f"={p.shown_default}" if p.default is not None else ""
            choices = f" ({', '.join(p.choices)})" if p.choices else ""
            lines.append(f"    {'':<{width}}    {name}{default}{choices}  {p.help}")
    lines += ["", "Every method with a base also takes"]
    lines += [f"    {name:<{width}}  {p.help}" for name, p in LAYER_RULE.items()]
    return "\n".join(lines)
