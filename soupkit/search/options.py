"""How a search decides: the options that every strategy shares, checked once."""

from dataclasses import dataclass

from soupkit.errors import UsageError

STRATEGIES = ("greedy", "backward", "swap")
RULES = ("exact", "none", "sequential")
ACCEPT = ("ge", "gt")


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How to search.

    `orders` greedy searches are made, the first by score, the others in random orders drawn from `seed`. `stopping`
    ends trials early; `error_rate` belongs to the sequential rule. `accept` keeps a candidate whose score does not fall
    ("ge") or only one whose score rises ("gt"). `keep_going` leaves ingredients out that are not finite.
    """

    strategy: str = "greedy"
    orders: int = 1
    stopping: str = "exact"
    error_rate: float = 0.05
    accept: str = "ge"
    seed: int = 0
    keep_going: bool = False

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
