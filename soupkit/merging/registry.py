"""How a merge method is declared: one typed function, whose signature holds its parameters, and a decorator that says
what it needs. Reading the table imports no torch.

    @merge_method(paper=SOUPS, base="needed")
    def shrunk(ops, ingredients, base, *, alpha: Annotated[float, Bounds(0, 1), "0: the base"] = 0.5):
        \"\"\"base + alpha (mean - base).\"\"\"
        return ops.mean(ingredients).sub_(base).mul_(alpha).add_(base)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from soupkit.extensions import Table
from soupkit.merging.declarations import Bounds, OfTheModel, Parameter, StatisticsFiles, Value, declared_by, each
from soupkit.merging.papers import Paper

if TYPE_CHECKING:
    from torch import Tensor

# What a method is declared with, all in one place.
__all__ = [
    "LAYER_RULE",
    "METHODS",
    "Bounds",
    "MergeMethod",
    "OfTheModel",
    "Paper",
    "StatisticsFiles",
    "each",
    "merge_method",
]

# The modules of soupkit.merging.methods, in the table's order.
FAMILIES = ("averages", "spheres", "task_vectors", "trimmed", "dropped", "matrices", "with_data")

Scope = Literal["elementwise", "tensor"]
Base = Literal["none", "optional", "needed"]
MergeFunction = Callable[..., "Tensor"]


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

    >>> from typing import Annotated
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
