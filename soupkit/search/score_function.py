"""A score that is a function of Python's: of a soup's directory, of its weights, or of a live module with them."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor, nn

from soupkit.checkpoint.dtypes import DTYPES
from soupkit.errors import ArchitectureError, UsageError
from soupkit.merging.plan import plan_tensors
from soupkit.merging.registry import METHODS
from soupkit.search.candidate import Soup
from soupkit.search.custom_score import CustomScore
from soupkit.search.ingredients import Ingredients
from soupkit.search.running_sum import RunningSum
from soupkit.search.score_answer import Answer, ScoreError, answer_of, read_hits

Takes = Literal["directory", "weights", "module"]


def what_it_takes(function: Callable[..., Any]) -> Takes:
    """Return what the function is to be given: its first argument's annotation says so, a directory unless it does.

    Raises UsageError for an annotation that means none of the three, and for a function without an argument.
    """
    target = function if inspect.isroutine(function) or inspect.isclass(function) else type(function).__call__
    where = f"score {getattr(function, '__qualname__', type(function).__qualname__)}"
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return "directory"
    if not parameters:
        raise UsageError("takes no argument", where, "it is given the soup's directory")
    try:
        hints = get_type_hints(target)
    except (NameError, TypeError):
        hints = {}
    kind = hints.get(parameters[0].name, parameters[0].annotation)
    if kind in (inspect.Parameter.empty, Any, str, Path, object):
        return "directory"
    kind = get_origin(kind) or kind
    if isinstance(kind, type) and issubclass(kind, nn.Module):
        return "module"
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return "weights"
    if isinstance(kind, type) and issubclass(Path, kind):
        return "directory"
    raise UsageError(f"takes {kind}", where, "annotate its argument as Path, Mapping[str, Tensor] or nn.Module")


def takes_images(function: Callable[..., Any]) -> bool:
    """Whether a function's second argument is called `images`."""
    try:
        return list(inspect.signature(function).parameters)[1:2] == ["images"]
    except (TypeError, ValueError):
        return False


def check_function(score: CustomScore) -> None:
    """Raise UsageError for a function whose argument means nothing that a soup can be shown as."""
    if not score.is_command and what_it_takes(score.asks) == "module" and score.build is None:
        raise UsageError("takes a module, and nothing builds it", f"score {score.name}", "give build=")


def build_module(score: CustomScore) -> nn.Module:
    """Return the module that the user's `build()` makes. Raises UsageError where it makes something else."""
    module = score.build()
    if not isinstance(module, nn.Module):
        raise UsageError(f"returned {type(module).__name__}, which is no nn.Module", "build", "return the module")
    return module


class FunctionAsker:
    """Calls the function of `score` with `given()`: what a soup is shown as."""

    def __init__(self, score: CustomScore, given: Callable[[], Any]) -> None:
        self._score, self._given = score, given
        self.by_images = takes_images(score.asks)

    def ask(self, name: str) -> Answer:
        """Return what the function answers. Raises ScoreError for what it raises, and for an answer that is none."""
        return answer_of(self._called(name, None), f"score {self._score.name} of {name}", self._score.key)

    def ask_about(self, name: str, images: np.ndarray) -> np.ndarray:
        """Return the hits on `images` (int64 [b]), bool [b]. Raises ScoreError."""
        return read_hits(self._called(name, images), len(images), f"score {self._score.name} of {name}")

    def _called(self, name: str, images: np.ndarray | None) -> Any:
        where = f"score {self._score.name} of {name}"
        try:
            return self._score.asks(self._given(), images) if self.by_images else self._score.asks(self._given())
        except Exception as error:
            raise ScoreError(
                f"raised {type(error).__name__}: {error}", where, "the same call goes on from here"
            ) from error


class LiveWeights:
    """The weights of one soup at a time, in tensors that are filled again: a map of names to tensors on the CPU, or
    those of a module."""

    def __init__(self, ingredients: Ingredients, module: nn.Module | None) -> None:
        """`module` is to be filled; None for a map. Raises ArchitectureError for a module with other tensors."""
        self.module = module
        if module is None:
            checkpoints = ingredients.checkpoints
            plans = plan_tensors(
                METHODS.find("uniform"), checkpoints, None, {name: {} for name in checkpoints[0].tensors}, None
            )
            self.tensors = {
                plan.name: torch.empty(checkpoints[0].tensors[plan.name].shape, dtype=_dtype(plan.dtype))
                for plan in plans
            }
        else:
            self.tensors = module.state_dict()
            _check_names(self.tensors, ingredients)
        self._sum = RunningSum(self.tensors, ingredients.checkpoints, ingredients.base)

    def given(self) -> nn.Module | Mapping[str, Tensor]:
        """Return what the function is given."""
        return self.module if self.module is not None else self.tensors

    def fill(self, soup: Soup) -> None:
        """Write `soup` into the tensors. Raises UsageError where the function has put others in the module's place."""
        if self.module is not None:
            now = self.module.state_dict()
            if any(now[name].data_ptr() != tensor.data_ptr() for name, tensor in self.tensors.items()):
                raise UsageError(
                    "has put other tensors into the module", "score", "convert or move the module in build(), not later"
                )
        self._sum.fill(soup)


def _dtype(name: str) -> torch.dtype:
    return getattr(torch, DTYPES[name].torch_name)


def _check_names(tensors: Mapping[str, Tensor], ingredients: Ingredients) -> None:
    checkpoint = ingredients.checkpoints[0]
    for name, tensor in tensors.items():
        spec = checkpoint.tensors.get(name)
        if spec is None or tuple(spec.shape) != tuple(tensor.shape):
            has = "lacks it" if spec is None else f"has {list(spec.shape)}"
            raise ArchitectureError(
                f"the module that build() made has {name!r} {list(tensor.shape)}, and {ingredients.refs[0]} {has}",
                "build", "build the module whose weights the ingredients are",
            )  # fmt: skip
    if more := [name for name in checkpoint.tensors if name not in tensors]:
        raise ArchitectureError(
            f"the module that build() made has no {more[0]!r}, which {ingredients.refs[0]} has", "build",
            "build the module whose weights the ingredients are",
        )  # fmt: skip
