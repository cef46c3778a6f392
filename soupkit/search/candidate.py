"""Soups as a search sees them: who is in, in which order they are summed, with which shares; and what is known."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

T = TypeVar("T")

SHARE_DIGITS = 4  # of every share that is tried, so that what is read is what was scored
_ALL = "*"


@dataclass(frozen=True, slots=True)
class MethodUse:
    """A merge method with its parameters, as `merge` takes them, in the order of their names; and whether it is given
    the search's base."""

    method: str
    parameters: tuple[tuple[str, float | int | bool | str], ...] = ()
    base: bool = False


@dataclass(frozen=True, slots=True)
class Soup:
    """`members` are numbers of ingredients, in the order of the sum.

    `shares` is None for the uniform soup; else, for each block of tensors (a pattern of names, as `merge` takes them,
    the first that matches counts), one weight per member. `use` is another merge method than those two, None for them.
    """

    members: tuple[int, ...]
    shares: tuple[tuple[str, tuple[float, ...]], ...] | None = None
    use: MethodUse | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        """What `merge` is given beside the members and the method; empty for the uniform soup."""
        if self.use is not None:
            return dict(self.use.parameters)
        if self.shares is None:
            return {}
        if len(self.shares) == 1:
            return {"weight": list(self.shares[0][1])}
        return {"weight": {pattern: list(weights) for pattern, weights in self.shares}}

    @property
    def method(self) -> str:
        """The merge method that writes it."""
        if self.use is not None:
            return self.use.method
        return "uniform" if self.shares is None else "linear"

    @property
    def is_uniform(self) -> bool:
        """Whether it is the mean of its members."""
        return self.shares is None and self.use is None

    @property
    def has_base(self) -> bool:
        """Whether it is made with the search's base."""
        return self.use is not None and self.use.base

    @property
    def weights(self) -> list[float] | dict[str, list[float]]:
        """One weight per member, or those of each block; equal ones where another method says what counts."""
        if self.shares is None:
            return [1 / len(self.members)] * len(self.members)
        return self.parameters["weight"]


def by_method(members: Sequence[int], method: str, parameters: Mapping[str, Any], *, base: bool) -> Soup:
    """Return the soup of `members` by a merge method with `parameters`, with or without the base.

    Numbers are rounded to so many digits that count (a method's 0.0001 is no zero), so that what is read is what was
    scored.
    """
    values = {k: float(f"{v:.{SHARE_DIGITS}g}") if isinstance(v, float) else v for k, v in sorted(parameters.items())}
    return Soup(tuple(members), None, MethodUse(method, tuple(values.items()), base))


def uniform(members: Sequence[int]) -> Soup:
    """Return the mean of `members`."""
    return Soup(tuple(members))


def mixture(members: Sequence[int], blocks: Mapping[str, Sequence[float]]) -> Soup:
    """Return the soup of `members` with the shares of `blocks` (pattern -> one per member), in its simplest form.

    Shares are rounded. Who has none in any block is left out; what is the same in all blocks is said once; equal shares
    are the uniform soup.
    """
    rounded = {pattern: [round(float(s), SHARE_DIGITS) for s in shares] for pattern, shares in blocks.items()}
    kept = [i for i in range(len(members)) if any(shares[i] for shares in rounded.values())]
    chosen = {pattern: tuple(shares[i] for i in kept) for pattern, shares in rounded.items()}
    distinct = set(chosen.values())
    left = tuple(members[i] for i in kept)
    if all(len(set(shares)) == 1 for shares in distinct):
        return Soup(left)
    if len(distinct) == 1:
        return Soup(left, ((_ALL, distinct.pop()),))
    return Soup(left, tuple(chosen.items()))


@dataclass(frozen=True, slots=True)
class ScoredSoup:
    """A soup whose score is known: in the metric's units, with its hits (bool [N], None where it has none)."""

    soup: Soup
    worth: int | float
    hits: np.ndarray | None

    @property
    def members(self) -> tuple[int, ...]:
        """The ingredients in it, in the order of the sum."""
        return self.soup.members


@dataclass(frozen=True, slots=True)
class SearchInputs:
    """What is searched: the `refs` of the ingredients, the names of the `tasks` that select, and of the `tensors`; and
    the `base` that the ingredients were fine-tuned from, where it was named."""

    refs: tuple[str, ...]
    tasks: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()
    base: str | None = None


class Proxy(Protocol):
    """What guesses a soup's score without scoring it."""

    def promise(self, soup: Soup) -> float:
        """Return what soups are ranked by: the more, the better the guess."""

    def value(self, soup: Soup) -> float:
        """Return the score that is guessed, a fraction."""

    def doubt(self, one: Soup, other: Soup) -> float:
        """Return the standard error of the difference of two guessed scores, as samples of all images."""

    def prune(self, soups: int) -> None:
        """Note that so many soups were turned away by guesses alone."""


@dataclass(frozen=True, slots=True)
class ShareGradient:
    """A loss at a mixture, its derivative by the factor that multiplies the logits, and by the shares: float64 [blocks,
    members]."""

    loss: float
    by_factor: float
    by_shares: np.ndarray


class Gradient(Protocol):
    """What differentiates the loss on the `images` that select by the shares of a mixture."""

    images: int

    def batches(self, size: int, seed: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield all images in a random order, `size` at a time, int64."""

    def of(
        self, members: Sequence[int], blocks: Sequence[str], shares: np.ndarray, factor: float, images: np.ndarray
    ) -> ShareGradient:
        """Differentiate the mean loss on `images` at the mixture of `members` with `shares`, float64 [blocks, members],
        its logits times `factor`."""


class Trials(Protocol):
    """What a strategy may ask for. Draws are seeded by `seed`; `proxy` is there where the options ask for it,
    `gradient` where the strategy's row does.

    A strategy that tries the mean of all after the best one:

    >>> def all_or_best(trials, order):
    ...     best = trials.start(uniform(order[:1]))
    ...     return trials.trial(best, uniform(order), "all", None) or best
    """

    inputs: SearchInputs
    seed: int

    @property
    def proxy(self) -> Proxy | None:
        """What guesses scores."""

    @property
    def gradient(self) -> Gradient | None:
        """What differentiates the loss."""

    @property
    def ingredient_scores(self) -> np.ndarray:
        """The ingredients' scores on each task that selects, float64 [tasks, ingredients]."""

    def by_members(self) -> dict[frozenset[int], float]:
        """Return the best score among the soups of the same members, for those that were scored in full."""

    def value_of(self, soup: Soup) -> float | None:
        """Return what a soup scored, None where it was not scored to the end."""

    def state(self, **facts: Any) -> None:
        """Put `facts` into `search.json`, each under its name: numbers, texts, lists and maps of them."""

    def expect(self, n: int) -> None:
        """So many more trials are to come, as far as the strategy knows."""

    def agree(self, value: T) -> T:
        """Return the first rank's `value` on every rank."""

    def start(self, soup: Soup) -> ScoredSoup:
        """Score a soup in full and begin with it."""

    def trial(
        self, current: ScoredSoup, soup: Soup, action: str, candidate: int | None, *, strict: bool = False
    ) -> ScoredSoup | None:
        """Score a soup as far as the rule needs; what becomes of it if it is accepted, else None. With `strict` only a
        higher score is accepted, whatever the options say."""

    def measure(self, current: ScoredSoup, soup: Soup, action: str) -> ScoredSoup:
        """Score a soup in full; it is accepted if its score is higher than the current one's."""
