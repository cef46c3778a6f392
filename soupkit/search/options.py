"""How a search decides: the options that every strategy shares and those of some, checked once."""

from dataclasses import dataclass
from typing import Any

from soupkit.errors import UsageError

STRATEGIES = ("greedy", "backward", "swap", "weights", "experts")
RULES = ("exact", "none", "sequential")
ACCEPT = ("ge", "gt")
_OF_SOME = {"budget": ("weights", "experts"), "blocks": ("weights",), "correlation": ("experts",)}


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How to search.

    `orders` greedy searches are made, the first by score, the others in random orders drawn from `seed`. `stopping`
    ends trials early; `error_rate` belongs to the sequential rule. `accept` keeps a candidate whose score does not fall
    ("ge") or only one whose score rises ("gt"). `keep_going` leaves ingredients out that are not finite.

    The strategies weights and experts try at most `budget` mixtures. `blocks` are patterns of tensor names that have
    mixing weights of their own (weights). Tasks whose scores correlate by at least `correlation` share an expert
    (experts).
    """

    strategy: str = "greedy"
    orders: int = 1
    stopping: str = "exact"
    error_rate: float = 0.05
    accept: str = "ge"
    seed: int = 0
    keep_going: bool = False
    budget: int = 100
    blocks: tuple[str, ...] = ()
    correlation: float = 0.5

    def check(self) -> None:
        """Raise UsageError for what cannot be."""
        for value, allowed, option in (
            (self.strategy, STRATEGIES, "--strategy"),
            (self.stopping, RULES, "--stopping"),
            (self.accept, ACCEPT, "--accept"),
        ):
            if value not in allowed:
                raise UsageError(f"{value!r} is not known", option, f"one of {', '.join(allowed)}")
        if self.orders < 1:
            raise UsageError("at least one order is needed", "--orders")
        if self.orders > 1 and self.strategy != "greedy":
            raise UsageError(f"the strategy {self.strategy} has no orders", "--orders", "they belong to greedy")
        if not 0 < self.error_rate < 1:
            raise UsageError(f"{self.error_rate} is no error rate", "--error-rate", "between 0 and 1, for example 0.05")
        if self.blocks and self.strategy != "weights":
            raise UsageError(f"the strategy {self.strategy} has no blocks", "--block", "they belong to weights")
        if self.budget < 1:
            raise UsageError("at least one mixture is needed", "--budget", "for example --budget 100")
        if not -1 <= self.correlation <= 1:
            raise UsageError(f"{self.correlation} is no correlation", "--correlation", "between -1 and 1")

    def deciding(self) -> dict[str, Any]:
        """Return the options that have a say in what is found: a search by others is another search."""
        found = {name: getattr(self, name) for name in self.__slots__}
        for name, strategies in _OF_SOME.items():
            if self.strategy not in strategies:
                del found[name]
        return found
