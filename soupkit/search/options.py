"""How a search decides: the options that every strategy shares, and those of the strategy's own, checked once."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from soupkit.errors import UsageError
from soupkit.search.strategies.table import STRATEGIES, Strategy

RULES = ("exact", "none", "sequential", "likely")
ACCEPT = ("ge", "gt")
_CAME_LATER = ("least_cosine", "metric")  # documents that have none of them mean None


@dataclass(frozen=True, init=False)
class SearchOptions:
    """How to search.

    `metric` selects instead of the tasks' main one. `stopping` ends trials early, unless it is said
    by the rule "exact", or with a `proxy` "likely"; `error_rate` belongs to the
    sequential rule. `accept` keeps a candidate whose score does not fall ("ge") or only one whose score
    rises ("gt").
    `seed` is that of random orders and draws. `keep_going` leaves ingredients out that are not finite; `least_cosine`
    those whose task vector's median cosine with the others' is smaller. `own` are the options of the strategy's own
    that were given, by name (`orders`, `budget`, `blocks`, ...): those of each strategy are in `STRATEGIES`.

    >>> how = soupkit.SearchOptions("swap", seed=3)
    >>> found = soupkit.search(["runs/a", "runs/b"], "soups/best", tasks="digits", options=how, limit=20, dry_run=True)
    >>> found.plan.strategy
    'swap'
    >>> soupkit.SearchOptions("greedy", orders=3).settled["orders"]
    3
    """

    strategy: str
    stopping: str
    error_rate: float
    accept: str
    seed: int
    keep_going: bool
    least_cosine: float | None
    metric: str | None
    own: Mapping[str, Any]

    def __init__(
        self,
        strategy: str = "greedy",
        *,
        stopping: str | None = None,
        error_rate: float = 0.05,
        accept: str = "ge",
        seed: int = 0,
        keep_going: bool = False,
        least_cosine: float | None = None,
        metric: str | None = None,
        **own: Any,
    ) -> None:
        stopping = stopping or ("likely" if _guesses(own) else "exact")
        values = (strategy, stopping, error_rate, accept, seed, keep_going, least_cosine, metric, own)
        for field, value in zip(fields(self), values, strict=True):
            object.__setattr__(self, field.name, value)

    @property
    def row(self) -> Strategy:
        """The strategy. Raises UsageError with the nearest names where there is none of this name."""
        return STRATEGIES.find(self.strategy)

    @property
    def settled(self) -> dict[str, Any]:
        """Every option of the strategy's own, with its value. Raises UsageError for one that cannot be."""
        return self.row.settle(self.own)

    def check(self) -> None:
        """Raise UsageError for what cannot be."""
        for value, allowed, option in ((self.stopping, RULES, "--stopping"), (self.accept, ACCEPT, "--accept")):
            if value not in allowed:
                raise UsageError(f"{value!r} is no choice", option, f"choose one of {', '.join(allowed)}")
        if not 0 < self.error_rate < 1:
            raise UsageError(f"{self.error_rate} is no error rate", "--error-rate", "between 0 and 1, for example 0.05")
        if self.least_cosine is not None and not -1 <= self.least_cosine <= 1:
            raise UsageError(f"{self.least_cosine} is no cosine", "--least-cosine", "between -1 and 1, for example 0.1")
        assert self.settled is not None  # which raises

    def deciding(self) -> dict[str, Any]:
        """Return the options that have a say in what is found: a search by others is another search."""
        shared = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "own"}
        for name in _CAME_LATER:
            if shared[name] is None:
                del shared[name]
        return {**shared, **self.settled}


def _guesses(own: Mapping[str, Any]) -> bool:
    """Whether these options ask for a proxy; what is no number is refused when they are checked."""
    try:
        return float(own.get("proxy") or 0) > 0
    except (TypeError, ValueError):
        return False


def same_options(one: Any, other: Any) -> bool:
    """Whether two `deciding()`, as JSON holds them, are of one search.

    Options that the strategy does not have make no difference, and one that is not there has its default: documents of
    earlier versions name some of the former, and none of those that came later.
    """
    return bool(_completed(one) == _completed(other))


def _completed(options: Any) -> Any:
    if not isinstance(options, dict) or options.get("strategy") not in STRATEGIES:
        return options
    row = STRATEGIES[options["strategy"]]
    shared = {field.name: options.get(field.name) for field in fields(SearchOptions) if field.name != "own"}
    own = {o.name: options.get(o.name, o.default) for o in row.options}
    return {**shared, **{name: list(value) if isinstance(value, tuple) else value for name, value in own.items()}}
