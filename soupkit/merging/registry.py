"""How a merge method is declared: one typed function, and a decorator that says what it needs."""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from torch import Tensor

from soupkit.errors import UsageError

Scope = Literal["elementwise", "tensor"]
MergeFunction = Callable[..., Tensor]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a method: its default (None: must be given), its bounds, and whether it is one per ingredient."""

    default: float | None
    low: float
    high: float
    help: str
    per_ingredient: bool = False


@dataclass(frozen=True, slots=True)
class MergeMethod:
    """A registered method.

    `function(ops, ingredients, base, **parameters)` gets 1-D tensors in their stored dtypes and returns a 1-D tensor
    in the accumulator's dtype. With scope "elementwise" these are any run of elements, with "tensor" one whole tensor.
    """

    name: str
    function: MergeFunction
    scope: Scope
    needs_base: bool
    ingredients: tuple[int, int | None]
    parameters: dict[str, Parameter]
    paper: str

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (self.function.__doc__ or "").strip().splitlines()[0]


METHODS: dict[str, MergeMethod] = {}


def merge_method(
    name: str,
    *,
    paper: str,
    scope: Scope = "elementwise",
    base: bool = False,
    ingredients: tuple[int, int | None] = (2, None),
    **parameters: Parameter,
) -> Callable[[MergeFunction], MergeFunction]:
    """Register a function as the merge method `name`; `ingredients` is the least and the largest number it takes."""

    def register(function: MergeFunction) -> MergeFunction:
        METHODS[name] = MergeMethod(name, function, scope, base, ingredients, parameters, paper)
        return function

    return register


def find_method(name: str) -> MergeMethod:
    """Return the method called `name`; raises UsageError with the nearest names when there is none."""
    if name in METHODS:
        return METHODS[name]
    near = get_close_matches(name, METHODS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(METHODS)}"
    raise UsageError(f"there is no merge method {name!r}", "--method", hint)
